-- Count a crash for tasks that a dead child had started under a row lock alone: they were never written down as running, and are
-- free again. Twice crashed, a waiting one is a suspect and waits to run alone; one that runs elsewhere by now is only counted.
-- Rows that others hold are skipped, and those that still run under the dead child's id: hand_back.sql counts for them.
-- Parameters: runner_id; arrays of one length: queues, ids. Result: id.
WITH free AS (
    SELECT task.queue, task.id
    FROM {schema}.task
    JOIN unnest(%(queues)s::text[], %(ids)s::uuid[]) AS started (queue, id) ON task.queue = started.queue AND task.id = started.id
    WHERE task.runner_id IS DISTINCT FROM %(runner_id)s::uuid
    ORDER BY task.queue, task.id
    FOR UPDATE OF task SKIP LOCKED
)
UPDATE {schema}.task AS task
SET crashes = least(task.crashes + 1, 32767)::smallint,
    status = CASE WHEN task.status = 'ready' AND task.crashes >= 1 THEN 'blocked' ELSE task.status END,
    blocked_on = CASE WHEN task.status = 'ready' AND task.crashes >= 1 THEN 'suspect' ELSE task.blocked_on END,
    updated_at = clock_timestamp()
FROM free
WHERE task.queue = free.queue AND task.id = free.id
RETURNING task.id::text
