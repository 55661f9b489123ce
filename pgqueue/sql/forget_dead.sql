-- Delete a batch of dead tasks past their retention. Parameters: before, limit. Result: count.
WITH forgotten AS (
    DELETE FROM {schema}.dead_task
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {schema}.dead_task
        WHERE finished_at < %(before)s
        ORDER BY finished_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM forgotten
