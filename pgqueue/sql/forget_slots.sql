-- Delete a batch of decided schedule slots past their retention. Parameters: before, limit. Result: count.
WITH forgotten AS (
    DELETE FROM {schema}.schedule_slot
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {schema}.schedule_slot
        WHERE decided_at < %(before)s
        ORDER BY decided_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM forgotten
