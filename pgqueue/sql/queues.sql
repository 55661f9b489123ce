-- The names of queues that hold unfinished tasks. A loose scan from the last name backwards: one index probe a queue, and it
-- lands on the newest tasks, not on the dead entries that processed ones leave at the front. Result: queue.
WITH RECURSIVE found AS (
    SELECT (SELECT max(queue) FROM {schema}.task) AS queue
    UNION ALL
    SELECT (SELECT max(task.queue) FROM {schema}.task WHERE task.queue < found.queue) FROM found WHERE found.queue IS NOT NULL
)
SELECT queue FROM found WHERE queue IS NOT NULL ORDER BY queue
