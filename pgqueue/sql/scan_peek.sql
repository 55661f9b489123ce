-- Whether there are ready tasks of one queue behind the watermarks, for a runner that has no room for them now. Takes nothing; the
-- lock on what it finds, which ends with the statement, tells what is free from what somebody else's lane is about to run.
-- Parameters: as scan_head.sql, without runner_id, claim_id and limit.
-- Result: is_elected, spent_seconds (the server's time) and the first key of each slice: priority, maturity_at, id; where there is
-- none, one row with the first two alone.
WITH election AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended('pgqueue scan ' || %(schema)s, 0)) AS is_elected
), found AS MATERIALIZED (
    SELECT first.priority, first.maturity_at, first.id
    FROM unnest(
        %(priorities)s::smallint[], %(lower_maturities)s::timestamptz[], %(lower_ids)s::uuid[],
        %(upper_maturities)s::timestamptz[], %(upper_ids)s::uuid[]
    ) AS slice (priority, lower_maturity, lower_id, upper_maturity, upper_id)
    CROSS JOIN LATERAL (
        SELECT ready.priority, ready.maturity_at, ready.id
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready' AND ready.type = ANY(%(types)s::text[])
            AND -ready.priority = slice.priority
            AND (ready.maturity_at, ready.id) >= (slice.lower_maturity, slice.lower_id)
            AND (ready.maturity_at, ready.id) < (slice.upper_maturity, slice.upper_id)
        ORDER BY ready.maturity_at, ready.id
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS first
    WHERE (SELECT is_elected FROM election)
)
SELECT
    election.is_elected, extract(epoch FROM clock_timestamp() - statement_timestamp())::float8 AS spent_seconds,
    found.priority, found.maturity_at, found.id::text
FROM election
LEFT JOIN found ON true
