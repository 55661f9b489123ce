-- Delete a batch of names that nobody has held for long. Only where the sequence has passed the token: whoever takes the name next
-- draws a larger one. Parameters: before, limit. Result: count.
WITH forgotten AS (
    DELETE FROM {schema}.named_lock
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {schema}.named_lock
        WHERE expires_at < %(before)s AND token <= (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {schema}.lock_token)
        ORDER BY expires_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM forgotten
