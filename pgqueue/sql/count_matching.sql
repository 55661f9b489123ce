-- How many unfinished tasks match. Parameters: queue, type, tags (each NULL for any), statuses. Result: count.
SELECT count(*)
FROM {schema}.task
WHERE status = ANY(%(statuses)s::text[]::{schema}.status[])
    AND (%(queue)s::text IS NULL OR queue = %(queue)s)
    AND (%(type)s::text IS NULL OR type = %(type)s)
    AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
