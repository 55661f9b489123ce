-- Lock ready tasks of one queue in the transaction that is open, in the order and by the segments of claim.sql: the lock is the
-- claim. Those of types that do not end soon are leased by the same statement, and are owned once the transaction commits; so is a
-- task that was asked to cancel before its runner was lost, since requests are looked for among leases.
-- Locks what it takes and skips what others hold. Parameters: as claim.sql, and leased_types.
-- Result: as claim.sql, whether the row is leased, and the claim that was on it before (NULL: none); `attempt` is the one that is
-- about to begin.
WITH picked AS MATERIALIZED (
    SELECT picked.*
    FROM unnest(
        %(first_priorities)s::smallint[], %(maturities)s::timestamptz[], %(ids)s::uuid[], %(last_priorities)s::smallint[]
    ) AS segment (first_priority, maturity_at, id, last_priority)
    CROSS JOIN LATERAL (
        SELECT
            ready.id, ready.type, ready.attempt, ready.priority, ready.maturity_at, ready.payload, ready.options, ready.headers,
            ready.expires_at, ready.claim_id,
            ready.type = ANY(%(leased_types)s::text[]) OR ready.cancel_requested_at IS NOT NULL AS is_leased
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready' AND ready.type = ANY(%(types)s::text[])
            AND (-ready.priority, ready.maturity_at, ready.id) >= (segment.first_priority, segment.maturity_at, segment.id)
            AND -ready.priority <= segment.last_priority
        ORDER BY -ready.priority, ready.maturity_at, ready.id
        LIMIT %(limit)s::bigint
        FOR UPDATE SKIP LOCKED
    ) AS picked
    LIMIT %(limit)s::bigint
), clock AS MATERIALIZED (
    SELECT clock_timestamp() AS now
), leased AS (
    UPDATE {schema}.task
    SET status = 'running', attempt = attempt + 1, runner_id = %(runner_id)s::uuid, claim_id = %(claim_id)s::uuid,
        claimed_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE queue = %(queue)s::text
        AND id = ANY(ARRAY(SELECT picked.id FROM picked WHERE picked.is_leased))
)
SELECT
    picked.id::text, picked.type, picked.attempt + 1, picked.priority, picked.maturity_at, clock.now, picked.payload::text,
    picked.options::text, picked.expires_at <= clock.now AS is_expired, picked.headers::text,
    picked.is_leased, picked.claim_id::text AS claim_before
FROM picked
CROSS JOIN clock
