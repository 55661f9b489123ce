-- Delete a batch of what was written down before an instant. Parameters: before, limit. Result: count.
WITH forgotten AS (
    DELETE FROM {schema}.audit
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {schema}.audit
        WHERE at < %(before)s
        ORDER BY at, id
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM forgotten
