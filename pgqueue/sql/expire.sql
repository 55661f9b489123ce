-- Cancel waiting tasks that were not started by their expiry. Rows that others hold are skipped. Parameters: limit, now.
-- Result: count.
WITH expired AS (
    DELETE FROM {schema}.task
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {schema}.task
        WHERE expires_at <= coalesce(%(now)s::timestamptz, clock_timestamp()) AND status IN ('scheduled', 'blocked', 'ready')
        ORDER BY expires_at
        LIMIT %(limit)s::bigint
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING *
), cancelled AS (
    INSERT INTO {schema}.history (
        queue, id, type, status, priority, payload, maturity_at, created_at, finished_at, attempt, crashes, runner_id, claim_id,
        tags, headers, lineage, reason
    )
    SELECT
        queue, id, type, 'cancelled', priority, payload, maturity_at, created_at, clock_timestamp(), attempt, crashes, runner_id,
        claim_id, tags, headers, lineage, 'expired before it was started'
    FROM expired
    RETURNING 1
)
SELECT count(*) FROM cancelled
