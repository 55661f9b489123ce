-- How many tasks are ready to run. Parameters: queue (NULL for all). Result: count.
SELECT count(*) FROM {schema}.task WHERE status = 'ready' AND (%(queue)s::text IS NULL OR queue = %(queue)s)
