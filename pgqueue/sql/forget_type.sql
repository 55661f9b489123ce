-- Delete a batch of the history of a type that keeps less than the fleet does. Parameters: type, before, limit. Result: count.
WITH forgotten AS (
    DELETE FROM {schema}.history
    WHERE (tableoid, ctid) IN (
        SELECT tableoid, ctid FROM {schema}.history
        WHERE type = %(type)s AND finished_at < %(before)s
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    )
    RETURNING 1
)
SELECT count(*) FROM forgotten
