-- Give back a batch of what a silent runner held; a crash spends no attempt. One guarded UPDATE: a runner that has beaten since, or
-- registered, is left alone. Rows that are being settled are skipped.
-- Parameters: runner_id with heartbeat_at as it was seen (NULL: it was not registered), limit. Result: id.
WITH abandoned AS (
    SELECT task.queue, task.id
    FROM {schema}.task
    WHERE task.status = 'running' AND task.runner_id = %(runner_id)s::uuid
        AND (SELECT runner.heartbeat_at FROM {schema}.runner WHERE runner.id = %(runner_id)s::uuid)
            IS NOT DISTINCT FROM %(heartbeat_at)s::timestamptz
    ORDER BY task.queue, task.id
    LIMIT %(limit)s::bigint
    FOR UPDATE OF task SKIP LOCKED
)
UPDATE {schema}.task AS task
SET status = 'ready', attempt = greatest(task.attempt - 1, 0), crashes = least(task.crashes + 1, 32767)::smallint,
    runner_id = NULL, updated_at = clock_timestamp()
FROM abandoned
WHERE task.queue = abandoned.queue AND task.id = abandoned.id AND task.status = 'running'
RETURNING task.id::text
