-- Make tasks of one queue ready that were blocked because no live runner knew their type, now that one asks who does, or because it
-- was disabled and is not any more. Which types wait is found by a loose scan: one index probe a type. Rows that others hold are
-- skipped. A type spelt differently gets its canonical name. Parameters: queue, types (those of the runner, canonical), limit.
-- Result: one row per priority of what was freed, with its first key: priority, maturity_at, id, freed_count (of all).
WITH RECURSIVE waiting AS (
    SELECT (SELECT min(task.type) FROM {schema}.task WHERE task.queue = %(queue)s::text AND task.status = 'blocked') AS type
    UNION ALL
    SELECT (
        SELECT min(task.type)
        FROM {schema}.task
        WHERE task.queue = %(queue)s::text AND task.status = 'blocked' AND task.type > waiting.type
    )
    FROM waiting
    WHERE waiting.type IS NOT NULL
), known AS MATERIALIZED (
    SELECT waiting.type, mine.name
    FROM waiting
    JOIN unnest(%(types)s::text[]) AS mine (name) ON {schema}.fold(mine.name) = {schema}.fold(waiting.type)
    -- Whoever asks may have learnt of it too late.
    WHERE NOT EXISTS (
        SELECT FROM {schema}.task_type AS known
        WHERE {schema}.fold(known.name) = {schema}.fold(mine.name) AND known.disabled_at IS NOT NULL
    )
), held AS MATERIALIZED (
    SELECT picked.ctid
    FROM known
    CROSS JOIN LATERAL (
        SELECT task.ctid
        FROM {schema}.task
        WHERE task.queue = %(queue)s::text AND task.status = 'blocked' AND task.type = known.type AND task.blocked_on IN ('type', 'disabled')
        ORDER BY task.id
        LIMIT %(limit)s::bigint
        FOR UPDATE SKIP LOCKED
    ) AS picked
    LIMIT %(limit)s::bigint
), freed AS (
    UPDATE {schema}.task AS task
    SET status = 'ready', blocked_on = NULL, type = (SELECT known.name FROM known WHERE known.type = task.type),
        updated_at = clock_timestamp()
    WHERE task.ctid = ANY(ARRAY(SELECT held.ctid FROM held))
    RETURNING task.priority, task.maturity_at, task.id
)
SELECT DISTINCT ON (priority) priority, maturity_at, id::text, count(*) OVER () AS freed_count
FROM freed
ORDER BY priority, maturity_at, id
