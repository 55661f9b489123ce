-- One task by its id, wherever it lives. Parameters: id. Result: the columns of a TaskRecord.
WITH RECURSIVE found AS (
    SELECT (SELECT max(queue) FROM {schema}.task) AS queue
    UNION ALL
    SELECT (SELECT max(task.queue) FROM {schema}.task WHERE task.queue < found.queue) FROM found WHERE found.queue IS NOT NULL
)
SELECT
    task.id, task.queue, task.type, task.status::text, task.priority, task.payload::text, task.maturity_at, task.created_at,
    task.claimed_at AS started_at, NULL::timestamptz AS finished_at, task.attempt, task.crashes, task.runner_id, task.tags,
    task.headers::text, NULL AS result, task.blocked_on AS reason
FROM found
JOIN {schema}.task ON task.queue = found.queue AND task.id = %(id)s
UNION ALL
SELECT
    id, queue, type, 'dead', priority, payload::text, maturity_at, created_at, started_at, finished_at, attempt, crashes,
    runner_id, tags, headers::text, NULL, error
FROM {schema}.dead_task WHERE id = %(id)s
UNION ALL
SELECT
    id, queue, type, status::text, priority, payload::text, maturity_at, created_at, started_at, finished_at, attempt, crashes,
    runner_id, tags, headers::text, result::text, reason
FROM {schema}.history WHERE id = %(id)s
