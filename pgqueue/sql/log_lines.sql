-- Write down what tasks logged, in the order given. `age` is how many seconds ago by the runner's clock: the instant is the
-- database's. Parameters: arrays of one length. Commits with the statement.
INSERT INTO {schema}.task_log (queue, task_id, attempt, logged_at, level, message, progress)
SELECT
    line.queue, line.task_id, line.attempt, clock.now - make_interval(secs => line.age), line.level, line.message, line.progress
FROM (SELECT clock_timestamp() AS now) AS clock
CROSS JOIN unnest(
    %(queues)s::text[], %(task_ids)s::uuid[], %(attempts)s::integer[], %(ages)s::float8[], %(levels)s::smallint[],
    %(messages)s::text[], %(progresses)s::real[]
) WITH ORDINALITY AS line (queue, task_id, attempt, age, level, message, progress, position)
ORDER BY line.position
