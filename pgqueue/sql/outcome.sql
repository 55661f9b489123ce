-- Where a task stands, and its result or error once it has ended. Parameters: queue, id. Result: status, result, reason.
SELECT status::text, NULL AS result, NULL AS reason FROM {schema}.task WHERE queue = %(queue)s AND id = %(id)s
UNION ALL
SELECT 'dead', NULL, error FROM {schema}.dead_task WHERE queue = %(queue)s AND id = %(id)s
UNION ALL
SELECT status::text, result::text, reason FROM {schema}.history WHERE id = %(id)s AND queue = %(queue)s
