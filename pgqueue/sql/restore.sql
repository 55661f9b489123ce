-- Bring a deleted task back as it was (delete.sql), under a new claim, with its place in line: scheduled if it is not due, or has
-- crashed and is for promotion to block; else ready. No row back: its unique key is taken, and nothing has happened. Waits for a
-- transaction that has inserted the same key and has not ended. Parameters: queue, id; channel as in enqueue.sql; now. Result: id.
WITH deleted AS MATERIALIZED (
    SELECT history.*, history.lineage -> 'deleted' AS kept, coalesce(%(now)s::timestamptz, clock_timestamp()) AS now
    FROM {schema}.history
    WHERE queue = %(queue)s::text AND id = %(id)s::uuid AND status = 'deleted'
    FOR UPDATE
), restored AS (
    INSERT INTO {schema}.task (
        queue, id, type, status, priority, payload, maturity_at, expires_at, created_at, attempt, crashes, claim_id, claimed_at,
        unique_key, tags, headers, options, lineage
    )
    SELECT
        queue, id, type, CASE WHEN maturity_at > now OR crashes >= 2 THEN 'scheduled' ELSE 'ready' END::{schema}.status, priority,
        payload, maturity_at, (kept ->> 'expires_at')::timestamptz, created_at, attempt, crashes, gen_random_uuid(), started_at,
        decode(kept ->> 'unique_key', 'hex'), tags, headers, nullif(kept -> 'options', 'null'),
        lineage - 'deleted' || jsonb_build_object('restored_at', clock_timestamp())
    FROM deleted
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
    DELETE FROM {schema}.history AS history
    USING restored
    WHERE history.queue = %(queue)s::text AND history.id = restored.id AND history.status = 'deleted'
)
SELECT id FROM restored
