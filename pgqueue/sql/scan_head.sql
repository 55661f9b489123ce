-- Claim ready tasks of one queue behind the watermarks, under a lease, slice by slice. One runner of a schema at a time is elected
-- by an advisory lock that ends with the statement: it saves work, nothing is right or wrong by it.
-- Locks what it takes and skips what others hold. Parameters: schema (its plain name), queue, types, runner_id, claim_id, limit;
-- the slices as arrays: priorities (negated), lower_maturities, lower_ids, upper_maturities, upper_ids.
-- Result: is_elected, spent_seconds (the server's time) and, as in claim.sql and in no particular order, id, type, attempt,
-- priority, maturity_at, claimed_at, payload, options, is_expired, headers; where nothing was taken, one row with the first two.
WITH election AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended('pgqueue scan ' || %(schema)s, 0)) AS is_elected
), taken AS (
    UPDATE {schema}.task
    SET status = 'running', attempt = attempt + 1, runner_id = %(runner_id)s::uuid, claim_id = %(claim_id)s::uuid,
        claimed_at = now(), updated_at = now()
    WHERE queue = %(queue)s::text AND id = ANY(ARRAY(
        SELECT picked.id
        FROM unnest(
            %(priorities)s::smallint[], %(lower_maturities)s::timestamptz[], %(lower_ids)s::uuid[],
            %(upper_maturities)s::timestamptz[], %(upper_ids)s::uuid[]
        ) AS slice (priority, lower_maturity, lower_id, upper_maturity, upper_id)
        CROSS JOIN LATERAL (
            SELECT ready.id
            FROM {schema}.task AS ready
            WHERE ready.queue = %(queue)s::text AND ready.status = 'ready' AND ready.type = ANY(%(types)s::text[])
                AND -ready.priority = slice.priority
                AND (ready.maturity_at, ready.id) >= (slice.lower_maturity, slice.lower_id)
                AND (ready.maturity_at, ready.id) < (slice.upper_maturity, slice.upper_id)
            ORDER BY ready.maturity_at, ready.id
            LIMIT %(limit)s::bigint
            FOR UPDATE SKIP LOCKED
        ) AS picked
        WHERE (SELECT is_elected FROM election)
        LIMIT %(limit)s::bigint
    ))
    RETURNING
        id::text, type, attempt, priority, maturity_at, claimed_at, payload::text, options::text, expires_at <= now() AS is_expired,
        headers::text
)
SELECT
    election.is_elected, extract(epoch FROM clock_timestamp() - statement_timestamp())::float8 AS spent_seconds,
    taken.*
FROM election
LEFT JOIN taken ON true
