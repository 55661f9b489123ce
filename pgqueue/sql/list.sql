-- Tasks that match, newest id first, from all three tables: each is read in the order of an index and stops at the limit.
-- Parameters: before (an id), statuses, queue, type, tags, created_after (each NULL for any), limit.
-- Result: the columns of a TaskRecord.
WITH RECURSIVE found AS (
    SELECT CASE WHEN %(queue)s::text IS NULL THEN (SELECT max(queue) FROM {schema}.task) ELSE %(queue)s::text END AS queue
    UNION ALL
    SELECT (SELECT max(task.queue) FROM {schema}.task WHERE task.queue < found.queue)
    FROM found WHERE found.queue IS NOT NULL AND %(queue)s::text IS NULL
), unfinished AS (
    SELECT task.* FROM found CROSS JOIN LATERAL (
        SELECT
            id, queue, type, status::text, priority, payload::text, maturity_at, created_at, claimed_at AS started_at,
            NULL::timestamptz AS finished_at, attempt, crashes, runner_id, tags, headers::text, NULL AS result,
            blocked_on AS reason
        FROM {schema}.task
        WHERE queue = found.queue
            AND (%(before)s::uuid IS NULL OR id < %(before)s)
            AND (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s::text[]::{schema}.status[]))
            AND (%(type)s::text IS NULL OR type = %(type)s)
            AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
            AND (%(created_after)s::timestamptz IS NULL OR created_at > %(created_after)s)
        ORDER BY queue DESC, id DESC
        LIMIT %(limit)s
    ) AS task
    WHERE %(statuses)s::text[] IS NULL OR %(statuses)s::text[] && '{scheduled,blocked,ready,running}'
), dead AS (
    SELECT
        id, queue, type, 'dead' AS status, priority, payload::text, maturity_at, created_at, started_at, finished_at, attempt,
        crashes, runner_id, tags, headers::text, NULL AS result, error AS reason
    FROM {schema}.dead_task
    WHERE (%(statuses)s::text[] IS NULL OR 'dead' = ANY(%(statuses)s::text[]))
        AND (%(queue)s::text IS NULL OR queue = %(queue)s)
        AND (%(before)s::uuid IS NULL OR id < %(before)s)
        AND (%(type)s::text IS NULL OR type = %(type)s)
        AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
        AND (%(created_after)s::timestamptz IS NULL OR created_at > %(created_after)s)
    ORDER BY id DESC
    LIMIT %(limit)s
), ended AS (
    SELECT
        id, queue, type, status::text, priority, payload::text, maturity_at, created_at, started_at, finished_at, attempt,
        crashes, runner_id, tags, headers::text, result::text, reason
    FROM {schema}.history
    WHERE (%(statuses)s::text[] IS NULL
            OR (%(statuses)s::text[] && '{succeeded,cancelled,ignored,deleted}'
                AND status = ANY(%(statuses)s::text[]::{schema}.status[])))
        AND (%(queue)s::text IS NULL OR queue = %(queue)s)
        AND (%(before)s::uuid IS NULL OR id < %(before)s)
        AND (%(type)s::text IS NULL OR type = %(type)s)
        AND (%(tags)s::text[] IS NULL OR tags @> %(tags)s)
        AND (%(created_after)s::timestamptz IS NULL OR created_at > %(created_after)s)
    ORDER BY id DESC
    LIMIT %(limit)s
)
SELECT * FROM unfinished
UNION ALL SELECT * FROM dead
UNION ALL SELECT * FROM ended
ORDER BY id DESC
LIMIT %(limit)s
