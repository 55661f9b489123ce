-- Ask the runners to cancel the running tasks that match. Parameters as for cancel_all. Result: count.
WITH asked AS (
    UPDATE {schema}.task SET cancel_requested_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {schema}.task
        WHERE status = 'running' AND cancel_requested_at IS NULL
            AND 'running' = ANY(%(statuses)s::{schema}.status[])
            AND (%(queue)s::text IS NULL OR queue = %(queue)s)
            AND (%(type)s::text IS NULL OR type = %(type)s)
            AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
            AND created_at <= %(created_before)s
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM asked
