-- Make due tasks of one queue ready, earliest first; rows that another runner is promoting are skipped. A type put in by hand
-- under another spelling gets its canonical name. A suspect (rescue.sql) waits to run alone again. Parameters: queue, types, limit, now.
-- Result: at least one row: the first key of the promoted of each priority in the order of claims (priority negated, maturity_at,
-- id; NULL where there are none) so that the promoter's own watermarks can go back to them, how many were promoted, and the
-- seconds until the next scheduled task is due (NULL: there is none; zero or less: it is due, and locked by somebody).
-- The instant comes from a subquery: a volatile function as such is no index condition, and every future task would be read.
WITH clock AS MATERIALIZED (
    SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now
), due AS (
    SELECT id FROM {schema}.task
    WHERE queue = %(queue)s::text AND status = 'scheduled' AND maturity_at <= (SELECT now FROM clock)
    ORDER BY maturity_at, id
    LIMIT %(limit)s::bigint
    FOR UPDATE SKIP LOCKED
), promoted AS (
    UPDATE {schema}.task AS task
    SET status = CASE WHEN task.crashes >= 2 THEN 'blocked' ELSE 'ready' END::{schema}.status,
        blocked_on = CASE WHEN task.crashes >= 2 THEN 'suspect' END, updated_at = clock_timestamp(),
        type = CASE
            WHEN task.type = ANY(%(types)s::text[]) THEN task.type
            ELSE coalesce(
                (SELECT known.name FROM {schema}.task_type AS known WHERE {schema}.fold(known.name) = {schema}.fold(task.type)),
                task.type
            )
        END
    WHERE task.queue = %(queue)s::text AND task.id = ANY(ARRAY(SELECT id FROM due))
    RETURNING task.priority, task.maturity_at, task.id
), first AS (
    SELECT DISTINCT ON (priority) -priority AS first_priority, maturity_at, id::text AS id, count(*) OVER () AS promoted_count
    FROM promoted
    ORDER BY priority, maturity_at, id
), next AS (
    -- The promoted still look scheduled here: a statement does not see what it does itself.
    SELECT extract(epoch FROM task.maturity_at - (SELECT now FROM clock))::float8 AS seconds
    FROM {schema}.task AS task
    WHERE task.queue = %(queue)s::text AND task.status = 'scheduled' AND task.id <> ALL(ARRAY(SELECT id FROM due))
    ORDER BY task.maturity_at, task.id
    LIMIT 1
)
SELECT first.first_priority, first.maturity_at, first.id, coalesce(first.promoted_count, 0), (SELECT seconds FROM next)
FROM clock
LEFT JOIN first ON true
ORDER BY first.first_priority DESC
