-- When each runner last beat, and who holds tasks without being registered (NULL). Only a change counts, never the distance to a
-- clock. Holders are found by a loose scan from the last id backwards: one index probe a runner. Result: id, heartbeat_at, kind.
WITH RECURSIVE holder AS (
    SELECT (SELECT task.runner_id FROM {schema}.task WHERE task.status = 'running' ORDER BY task.runner_id DESC LIMIT 1) AS id
    UNION ALL
    SELECT (
        SELECT task.runner_id
        FROM {schema}.task
        WHERE task.status = 'running' AND task.runner_id < holder.id
        ORDER BY task.runner_id DESC
        LIMIT 1
    )
    FROM holder
    WHERE holder.id IS NOT NULL
)
SELECT id, heartbeat_at, kind FROM {schema}.runner
UNION ALL
SELECT id, NULL, NULL FROM holder WHERE id IS NOT NULL AND NOT EXISTS (SELECT FROM {schema}.runner WHERE runner.id = holder.id)
ORDER BY id
