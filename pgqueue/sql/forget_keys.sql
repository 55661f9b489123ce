-- Delete a batch of idempotency keys that have expired. Parameters: limit, now. Result: count.
WITH forgotten AS (
    DELETE FROM {schema}.idempotency
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {schema}.idempotency
        WHERE expires_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
        ORDER BY expires_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM forgotten
