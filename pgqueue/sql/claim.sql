-- Claim ready tasks of one queue under a lease: highest priority first, then earliest maturity, then id.
-- The scan walks segments of the ready index, each from a watermark to the next known priority, so that it never passes the
-- dead entries of tasks claimed before. `id = ANY(ARRAY(...))` keeps the plan an index scan at any table size.
-- Locks what it takes and skips what others hold. Parameters: queue, types, runner_id, claim_id, limit; the segments as
-- arrays: first_priorities (negated), maturities, ids, last_priorities (negated).
-- Result, in no particular order: id, type, attempt, priority, maturity_at, claimed_at, payload, options, is_expired, headers.
UPDATE {schema}.task
SET status = 'running', attempt = attempt + 1, runner_id = %(runner_id)s::uuid, claim_id = %(claim_id)s::uuid,
    claimed_at = now(), updated_at = now()
WHERE queue = %(queue)s::text AND id = ANY(ARRAY(
    SELECT picked.id
    FROM unnest(
        %(first_priorities)s::smallint[], %(maturities)s::timestamptz[], %(ids)s::uuid[], %(last_priorities)s::smallint[]
    ) AS segment (first_priority, maturity_at, id, last_priority)
    CROSS JOIN LATERAL (
        SELECT ready.id
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready' AND ready.type = ANY(%(types)s::text[])
            AND (-ready.priority, ready.maturity_at, ready.id) >= (segment.first_priority, segment.maturity_at, segment.id)
            AND -ready.priority <= segment.last_priority
        ORDER BY -ready.priority, ready.maturity_at, ready.id
        LIMIT %(limit)s::bigint
        FOR UPDATE SKIP LOCKED
    ) AS picked
    LIMIT %(limit)s::bigint
))
RETURNING
    id::text, type, attempt, priority, maturity_at, claimed_at, payload::text, options::text, expires_at <= now() AS is_expired,
    headers::text
