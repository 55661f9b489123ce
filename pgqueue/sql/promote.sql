-- Make due tasks of one queue ready, earliest first; rows that another runner is promoting are skipped. A type put in by hand
-- under another spelling gets its canonical name. A suspect (rescue.sql) waits to run alone again. Parameters: queue, limit, now.
-- Result: one row: count, whether there may be more, and the first key of the promoted in the order of claims (priority
-- negated, maturity_at, id) so that the promoter's own watermarks can go back to them.
WITH due AS (
    SELECT id FROM {schema}.task
    WHERE queue = %(queue)s::text AND status = 'scheduled' AND maturity_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
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
)
SELECT DISTINCT ON (priority) -priority AS first_priority, maturity_at, id::text, count(*) OVER () AS promoted_count
FROM promoted
ORDER BY priority, maturity_at, id
