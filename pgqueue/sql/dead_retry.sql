-- Make a batch of dead tasks ready again, from `after` on in the order of ids, with a new budget of attempts: under the same id and
-- key, due now, without its expiry. What it was goes into its lineage, which remembers the last 20 times. One whose unique key is
-- taken stays dead. Inserted in the order of their keys, as enqueue_many.sql; waits for a transaction that has inserted such a key
-- and has not ended. Rows that others hold are skipped.
-- Parameters: after (an id, exclusive), limit; queue, type, tags, ids, dead_before (each NULL for any); channel as in enqueue.sql.
-- Result: the last id looked at (NULL: nothing left), how many were found, how many are ready.
WITH found AS MATERIALIZED (
    SELECT *
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
), retried AS (
    INSERT INTO {schema}.task (
        queue, id, type, status, priority, payload, created_at, claim_id, claimed_at, unique_key, tags, headers, options, lineage
    )
    SELECT
        queue, id, type, 'ready', priority, payload, created_at, claim_id, started_at, unique_key, tags, headers,
        nullif(options - 'undecodable', '{}'),
        coalesce(lineage, '{}') || jsonb_build_object(
            'retries',
            jsonb_path_query_array(coalesce(lineage -> 'retries', '[]'), '$[last - 18 to last]') || jsonb_build_object(
                'retried_at', clock_timestamp(), 'dead_at', finished_at, 'attempt', attempt, 'crashes', crashes,
                'error', left(error, 1000)
            )
        )
    FROM found
    ORDER BY queue COLLATE "C", unique_key NULLS FIRST, id
    ON CONFLICT DO NOTHING
    RETURNING
        queue, id,
        CASE
            WHEN maturity_at <= (
                SELECT to_timestamp(last_value) FROM {schema}.wake
                WHERE %(channel)s::text IS NOT NULL AND last_value > extract(epoch FROM clock_timestamp())
            ) AND pg_notification_queue_usage() < 0.5
            THEN pg_notify(%(channel)s::text, queue)
        END AS told
), removed AS (
    DELETE FROM {schema}.dead_task AS dead USING retried WHERE dead.queue = retried.queue AND dead.id = retried.id
)
SELECT
    (SELECT id FROM found ORDER BY id DESC LIMIT 1) AS last_id,
    (SELECT count(*) FROM found) AS found_count,
    (SELECT count(*) FROM retried) AS retried_count
