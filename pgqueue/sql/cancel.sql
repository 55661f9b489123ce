-- Cancel one task: a waiting one at once, a running one by asking its runner. Locks the row, and waits for it.
-- The reason stays on a running row until its attempt ends; asking again without one keeps the first.
-- No row back: it has ended, or moved while we looked (ask again). Parameters: queue, id, reason. Result: status after.
WITH waiting AS (
    DELETE FROM {schema}.task
    WHERE queue = %(queue)s AND id = %(id)s AND status IN ('scheduled', 'blocked', 'ready')
    RETURNING *
), cancelled AS (
    INSERT INTO {schema}.history (
        queue, id, type, status, priority, payload, maturity_at, created_at, finished_at, attempt, crashes, runner_id, claim_id,
        tags, headers, lineage, reason
    )
    SELECT
        queue, id, type, 'cancelled', priority, payload, maturity_at, created_at, clock_timestamp(), attempt, crashes, runner_id,
        claim_id, tags, headers, lineage, %(reason)s::text
    FROM waiting
    RETURNING status::text
), running AS (
    UPDATE {schema}.task
    SET cancel_requested_at = clock_timestamp(), cancel_reason = coalesce(%(reason)s::text, cancel_reason),
        updated_at = clock_timestamp()
    WHERE queue = %(queue)s AND id = %(id)s AND status = 'running'
    RETURNING status::text
)
SELECT status FROM cancelled UNION ALL SELECT status FROM running
