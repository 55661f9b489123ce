-- The failed attempts of a task, first to last. Parameters: id.
SELECT attempt, started_at, finished_at, runner_id, error_type, error, traceback
FROM {schema}.attempt WHERE task_id = %(id)s ORDER BY attempt, finished_at
