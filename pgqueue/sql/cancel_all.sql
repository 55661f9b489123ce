-- Cancel a batch of the waiting tasks that match; rows that others hold are left for the next batch or to their claimant.
-- Parameters: queue, type, tags, statuses, created_before (each NULL for any), reason, limit. Result: count.
WITH waiting AS (
    DELETE FROM {schema}.task
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {schema}.task
        WHERE status = ANY(%(statuses)s::{schema}.status[]) AND status <> 'running'
            AND (%(queue)s::text IS NULL OR queue = %(queue)s)
            AND (%(type)s::text IS NULL OR type = %(type)s)
            AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
            AND created_at <= %(created_before)s
        LIMIT %(limit)s
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
        claim_id, tags, headers, lineage, %(reason)s::text
    FROM waiting
    RETURNING 1
)
SELECT count(*) FROM cancelled
