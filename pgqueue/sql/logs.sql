-- What a task logged, oldest first. With `after` the lines that follow that one, else the last ones.
-- Parameters: id, after (the id of a line, or NULL), limit.
WITH last AS (
    SELECT id, attempt, logged_at, level, message, progress FROM {schema}.task_log
    WHERE task_id = %(id)s AND %(after)s::bigint IS NULL
    ORDER BY id DESC LIMIT %(limit)s
), following AS (
    SELECT id, attempt, logged_at, level, message, progress FROM {schema}.task_log
    WHERE task_id = %(id)s AND id > %(after)s::bigint
    ORDER BY id LIMIT %(limit)s
)
SELECT id, attempt, logged_at, level, message, progress FROM last
UNION ALL
SELECT id, attempt, logged_at, level, message, progress FROM following
ORDER BY id
