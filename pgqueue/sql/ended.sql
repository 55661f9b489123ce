-- Which of these tasks have ended, so that an enqueue repeated by its id is not run twice. Parameters: ids. Result: id.
SELECT id FROM {schema}.history WHERE id = ANY(%(ids)s::uuid[])
UNION ALL
SELECT id FROM {schema}.dead_task WHERE id = ANY(%(ids)s::uuid[])
