-- The failed attempts of a task, first to last: a dead task that was retried counts anew. Parameters: id.
SELECT attempt, started_at, finished_at, runner_id, error_type, error, traceback
FROM {schema}.attempt WHERE task_id = %(id)s ORDER BY finished_at, attempt
