-- Ask the runners to cancel a batch of one queue's running tasks that match, in the order of ids from `after` on.
-- Parameters and result as for cancel_all.
WITH found AS MATERIALIZED (
    SELECT id FROM {schema}.task
    WHERE queue = %(queue)s::text AND id > %(after)s::uuid
        AND status = 'running' AND cancel_requested_at IS NULL
        AND 'running' = ANY(%(statuses)s::{schema}.status[])
        AND (%(type)s::text IS NULL OR type = %(type)s)
        AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
        AND created_at <= %(created_before)s::timestamptz
    ORDER BY queue, id
    LIMIT %(limit)s::bigint
    FOR UPDATE SKIP LOCKED
), asked AS (
    UPDATE {schema}.task
    SET cancel_requested_at = clock_timestamp(), cancel_reason = %(reason)s::text, updated_at = clock_timestamp()
    WHERE queue = %(queue)s::text AND id = ANY(ARRAY(SELECT id FROM found))
    RETURNING 1
)
SELECT
    (SELECT id FROM found ORDER BY id DESC LIMIT 1) AS last_id,
    (SELECT count(*) FROM asked) AS cancelled_count
