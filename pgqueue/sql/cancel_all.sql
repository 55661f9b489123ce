-- Cancel a batch of one queue's waiting tasks that match, in the order of ids from `after` on, so that no batch walks over what
-- the one before it deleted. Rows that others hold are left to their claimant.
-- Parameters: queue, after (an id, exclusive), limit; type, tags (each NULL for any), statuses, created_before, reason.
-- Result: the last id looked at (NULL: nothing left) and how many were cancelled.
WITH found AS MATERIALIZED (
    SELECT id FROM {schema}.task
    WHERE queue = %(queue)s::text AND id > %(after)s::uuid
        AND status = ANY(%(statuses)s::{schema}.status[]) AND status <> 'running'
        AND (%(type)s::text IS NULL OR type = %(type)s)
        AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
        AND created_at <= %(created_before)s::timestamptz
    ORDER BY queue, id
    LIMIT %(limit)s::bigint
    FOR UPDATE SKIP LOCKED
), waiting AS (
    DELETE FROM {schema}.task
    WHERE queue = %(queue)s::text AND id = ANY(ARRAY(SELECT id FROM found))
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
SELECT
    (SELECT id FROM found ORDER BY id DESC LIMIT 1) AS last_id,
    (SELECT count(*) FROM cancelled) AS cancelled_count
