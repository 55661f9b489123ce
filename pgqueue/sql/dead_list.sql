-- Dead tasks that match, newest id first. Parameters: before (an id), queue, type, tags, ids, dead_before (each NULL for any), limit.
-- Result: the columns of a TaskRecord.
SELECT
    id, queue, type, 'dead' AS status, priority, payload::text, maturity_at, created_at, started_at, finished_at, attempt, crashes,
    runner_id, tags, headers::text, NULL AS result, error AS reason, lineage::text
FROM {schema}.dead_task
WHERE (%(before)s::uuid IS NULL OR id < %(before)s)
    AND (%(ids)s::uuid[] IS NULL OR id = ANY(%(ids)s::uuid[]))
    AND (%(queue)s::text IS NULL OR queue = %(queue)s)
    AND (%(type)s::text IS NULL OR type = %(type)s)
    AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
    AND (%(dead_before)s::timestamptz IS NULL OR finished_at <= %(dead_before)s)
ORDER BY id DESC, queue DESC
LIMIT %(limit)s::bigint
