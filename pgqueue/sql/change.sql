-- Change a waiting task that this transaction holds (hold.sql). The claim that it gets keeps a lost lane from regaining what it had
-- read before (regain.sql). With another maturity it is scheduled or ready; what is blocked on something else than a type or on its
-- crashes stays so, and a suspect that is due is left to promotion, which blocks it.
-- Parameters: queue, id; priority, payload (NULL: as they are), tags with sets_tags, unique_key (as it is to be), maturity_at
-- (NULL: as it is), now; channel as in enqueue.sql. Result: whether runners were told.
UPDATE {schema}.task
SET priority = coalesce(%(priority)s::smallint, priority),
    payload = coalesce(%(payload)s::jsonb, payload),
    tags = CASE WHEN %(sets_tags)s::boolean THEN %(tags)s::text[] ELSE tags END,
    unique_key = %(unique_key)s::bytea,
    maturity_at = coalesce(%(maturity_at)s::timestamptz, maturity_at),
    status = CASE
        WHEN %(maturity_at)s::timestamptz > %(now)s::timestamptz AND coalesce(blocked_on, 'type') IN ('type', 'suspect')
        THEN 'scheduled'
        WHEN %(maturity_at)s::timestamptz <= %(now)s::timestamptz AND status = 'scheduled' AND crashes < 2 THEN 'ready'
        ELSE status
    END::{schema}.status,
    blocked_on = CASE
        WHEN %(maturity_at)s::timestamptz > %(now)s::timestamptz AND blocked_on IN ('type', 'suspect') THEN NULL
        ELSE blocked_on
    END,
    claim_id = gen_random_uuid(), updated_at = clock_timestamp()
WHERE queue = %(queue)s::text AND id = %(id)s::uuid AND status IN ('scheduled', 'blocked', 'ready')
RETURNING
    CASE
        WHEN maturity_at <= (
            SELECT to_timestamp(last_value) FROM {schema}.wake
            WHERE %(channel)s::text IS NOT NULL AND last_value > extract(epoch FROM clock_timestamp())
        ) AND pg_notification_queue_usage() < 0.5
        THEN pg_notify(%(channel)s::text, queue)
    END AS told
