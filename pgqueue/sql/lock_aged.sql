-- Lock ready tasks of one queue that ages, in the transaction that is open: picked as by claim_aged.sql, and held as by lock.sql.
-- Parameters: as claim_aged.sql, and leased_types. Result: as lock.sql.
WITH RECURSIVE stretch (priority, maturity_at, id, last_priority) AS (
    SELECT segment.first_priority, segment.maturity_at, segment.id, segment.last_priority
    FROM unnest(
        %(first_priorities)s::smallint[], %(maturities)s::timestamptz[], %(ids)s::uuid[], %(last_priorities)s::smallint[]
    ) AS segment (first_priority, maturity_at, id, last_priority)
    UNION ALL
    SELECT following.priority, '-infinity'::timestamptz, '00000000-0000-0000-0000-000000000000'::uuid, stretch.last_priority
    FROM stretch
    CROSS JOIN LATERAL (
        SELECT -ready.priority AS priority
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready'
            AND -ready.priority > stretch.priority AND -ready.priority <= stretch.last_priority
        ORDER BY -ready.priority, ready.maturity_at, ready.id
        LIMIT 1
    ) AS following
), candidate AS MATERIALIZED (
    SELECT -ready.priority AS priority, ready.maturity_at, ready.id
    FROM (SELECT stretch.* FROM stretch LIMIT %(priorities)s::bigint) AS stretch
    CROSS JOIN LATERAL (
        SELECT ready.id, ready.priority, ready.maturity_at
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready' AND ready.type = ANY(%(types)s::text[])
            AND -ready.priority = stretch.priority AND (ready.maturity_at, ready.id) >= (stretch.maturity_at, stretch.id)
        ORDER BY ready.maturity_at, ready.id
        LIMIT %(reach)s::bigint
    ) AS ready
    ORDER BY ready.maturity_at - timestamptz 'epoch' - ready.priority * %(aging)s::interval, -ready.priority, ready.id
    LIMIT %(reach)s::bigint
), picked AS MATERIALIZED (
    SELECT picked.*
    FROM candidate
    CROSS JOIN LATERAL (
        SELECT
            ready.id, ready.type, ready.attempt, ready.priority, ready.maturity_at, ready.payload, ready.options, ready.headers,
            ready.expires_at, ready.claim_id,
            ready.type = ANY(%(leased_types)s::text[]) OR ready.cancel_requested_at IS NOT NULL AS is_leased
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready'
            AND -ready.priority = candidate.priority AND ready.maturity_at = candidate.maturity_at AND ready.id = candidate.id
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
