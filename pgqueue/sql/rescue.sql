-- Give back a batch of what a silent runner held, and what runners hold that are not registered; a crash spends no attempt.
-- One guarded UPDATE: a runner that has beaten since is left alone. Rows that are being settled are skipped.
-- Parameters: runner_id with heartbeat_at as it was seen (NULL: look for unregistered runners), lease (seconds), limit.
-- Result: id.
WITH abandoned AS (
    SELECT task.queue, task.id
    FROM {schema}.task
    LEFT JOIN {schema}.runner ON runner.id = task.runner_id
    WHERE task.status = 'running'
        AND CASE
            WHEN %(runner_id)s::uuid IS NULL
                THEN runner.id IS NULL AND task.claimed_at < clock_timestamp() - make_interval(secs => %(lease)s::float8)
            ELSE task.runner_id = %(runner_id)s::uuid AND runner.heartbeat_at = %(heartbeat_at)s::timestamptz
        END
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
