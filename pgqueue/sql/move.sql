-- Move a waiting task that this transaction holds (hold.sql) to another queue: queue is part of its key, so inserted there and
-- deleted here. Its idempotency key follows it, by a look through all keys. No row back: its unique key is taken there, and
-- nothing has happened. Waits for a transaction that has inserted the same key and has not ended.
-- Parameters: queue, id, to_queue, unique_key (as it is to be), channel as in enqueue.sql. Result: id.
WITH moved AS (
    INSERT INTO {schema}.task (
        queue, id, type, status, priority, payload, maturity_at, expires_at, created_at, updated_at, attempt, crashes, claim_id,
        claimed_at, cancel_requested_at, cancel_reason, blocked_on, unique_key, tags, headers, options, lineage
    )
    SELECT
        %(to_queue)s::text, id, type, status, priority, payload, maturity_at, expires_at, created_at, clock_timestamp(), attempt,
        crashes, gen_random_uuid(), claimed_at, cancel_requested_at, cancel_reason, blocked_on, %(unique_key)s::bytea, tags,
        headers, options, coalesce(lineage, '{}') || jsonb_build_object('moved_from', queue)
    FROM {schema}.task
    WHERE queue = %(queue)s::text AND id = %(id)s::uuid AND status IN ('scheduled', 'blocked', 'ready')
    ON CONFLICT DO NOTHING
    RETURNING
        id,
        CASE
            WHEN maturity_at <= (
                SELECT to_timestamp(last_value) FROM {schema}.wake
                WHERE %(channel)s::text IS NOT NULL AND last_value > extract(epoch FROM clock_timestamp())
            ) AND pg_notification_queue_usage() < 0.5
            THEN pg_notify(%(channel)s::text, queue)
        END AS told
), removed AS (
    DELETE FROM {schema}.task AS task USING moved WHERE task.queue = %(queue)s::text AND task.id = moved.id
), followed AS (
    UPDATE {schema}.idempotency AS held SET task_queue = %(to_queue)s::text FROM moved WHERE held.task_id = moved.id
)
SELECT id FROM moved
