-- The queues: those that hold unfinished tasks, and those that have settings. A loose scan from the last name backwards: one index
-- probe a queue, and it lands on the newest tasks, not on the dead entries that processed ones leave at the front.
-- Result: queue, aging (ten years where somebody wrote more: products of it must fit Python's and PostgreSQL's types), paused_at,
-- has_tasks.
WITH RECURSIVE found AS (
    SELECT (SELECT max(queue) FROM {schema}.task) AS queue
    UNION ALL
    SELECT (SELECT max(task.queue) FROM {schema}.task WHERE task.queue < found.queue) FROM found WHERE found.queue IS NOT NULL
), holding AS (
    SELECT found.queue AS name FROM found WHERE found.queue IS NOT NULL
)
SELECT
    coalesce(holding.name, configured.name) AS queue,
    CASE WHEN configured.aging > interval '3650 days' THEN interval '3650 days' ELSE configured.aging END AS aging,
    configured.paused_at, holding.name IS NOT NULL AS has_tasks
FROM holding
FULL JOIN {schema}.queue AS configured ON configured.name = holding.name
ORDER BY queue
