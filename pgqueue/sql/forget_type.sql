-- Delete a batch of the history of a type that keeps less than the fleet does. By id, which has an index in every partition: a
-- join on ctid would read them all for each batch. Parameters: type, before, limit. Result: count.
WITH forgotten AS (
    DELETE FROM {schema}.history
    WHERE type = %(type)s::text AND finished_at < %(before)s::timestamptz AND id = ANY(ARRAY(
        SELECT id FROM {schema}.history
        WHERE type = %(type)s::text AND finished_at < %(before)s::timestamptz
        LIMIT %(limit)s::bigint
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM forgotten
