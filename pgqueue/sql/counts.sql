-- Unfinished and dead tasks by queue and status, counted through the indexes; history is never touched. Parameters: queue
-- (NULL for all). Result: queue, status, count.
SELECT queue, status::text, count(*) FROM {schema}.task WHERE %(queue)s::text IS NULL OR queue = %(queue)s GROUP BY queue, status
UNION ALL
SELECT queue, 'dead', count(*) FROM {schema}.dead_task WHERE %(queue)s::text IS NULL OR queue = %(queue)s GROUP BY queue
ORDER BY 1, 2
