-- How many dead tasks match, and for how long the oldest has been dead. Parameters: queue, type, tags, ids, dead_before (each NULL
-- for any). Result: count, an interval (NULL: there is none).
SELECT count(*), CASE WHEN count(*) > 0 THEN greatest(clock_timestamp() - min(finished_at), interval '0') END AS oldest_age
FROM {schema}.dead_task
WHERE (%(ids)s::uuid[] IS NULL OR id = ANY(%(ids)s::uuid[]))
    AND (%(queue)s::text IS NULL OR queue = %(queue)s)
    AND (%(type)s::text IS NULL OR type = %(type)s)
    AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
    AND (%(dead_before)s::timestamptz IS NULL OR finished_at <= %(dead_before)s)
