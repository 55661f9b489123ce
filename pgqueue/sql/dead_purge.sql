-- Delete a batch of dead tasks for ever, with their failed attempts and their log, from `after` on in the order of ids. Their
-- idempotency keys stay until they expire. Rows that others hold are skipped. Parameters: as dead_retry.sql.
-- Result: the last id looked at (NULL: nothing left), how many were deleted.
WITH found AS MATERIALIZED (
    SELECT queue, id
    FROM {schema}.dead_task
    WHERE id > %(after)s::uuid
        AND (%(ids)s::uuid[] IS NULL OR id = ANY(%(ids)s::uuid[]))
        AND (%(queue)s::text IS NULL OR queue = %(queue)s)
        AND (%(type)s::text IS NULL OR type = %(type)s)
        AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
        AND (%(dead_before)s::timestamptz IS NULL OR finished_at <= %(dead_before)s)
    ORDER BY id, queue
    LIMIT %(limit)s::bigint
    FOR UPDATE SKIP LOCKED
), purged AS (
    DELETE FROM {schema}.dead_task AS dead USING found WHERE dead.queue = found.queue AND dead.id = found.id RETURNING dead.id
), attempts AS (
    DELETE FROM {schema}.attempt WHERE task_id = ANY(ARRAY(SELECT id FROM found))
), lines AS (
    DELETE FROM {schema}.task_log WHERE task_id = ANY(ARRAY(SELECT id FROM found))
)
SELECT (SELECT id FROM found ORDER BY id DESC LIMIT 1) AS last_id, (SELECT count(*) FROM purged) AS purged_count
