-- Take an idempotency key for a new task; an expired key is taken over. No row back: the key is held.
-- Waits for another transaction that took the same key and has not ended. Parameters: queue, key, task_id, task_queue,
-- retention (seconds), now. Result: task_id.
INSERT INTO {schema}.idempotency AS held (queue, key, task_id, task_queue, created_at, expires_at)
SELECT
    %(queue)s, %(key)s, %(task_id)s, %(task_queue)s, clock.now, clock.now + make_interval(secs => %(retention)s::float8)
FROM (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) AS clock
ON CONFLICT (queue, key) DO UPDATE
SET task_id = excluded.task_id, task_queue = excluded.task_queue,
    created_at = excluded.created_at, expires_at = excluded.expires_at
WHERE held.expires_at <= excluded.created_at
RETURNING task_id
