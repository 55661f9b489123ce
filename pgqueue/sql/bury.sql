-- Move tasks that used up their tries to `dead_task`, and note the attempt that failed. Frees their unique keys. Fenced and
-- ordered as settle.sql. Parameters: queue, runner_id; arrays of one length: ids (sorted), claim_ids, reasons, error_types
-- (NULL: no failure to note), errors, tracebacks. Result: id of each task settled.
WITH outcome AS MATERIALIZED (
    SELECT * FROM unnest(
        %(ids)s::uuid[], %(claim_ids)s::uuid[], %(reasons)s::text[], %(error_types)s::text[], %(errors)s::text[],
        %(tracebacks)s::text[]
    ) AS outcome (id, claim_id, reason, error_type, error, traceback)
), ended AS (
    DELETE FROM {schema}.task AS task
    USING outcome
    WHERE task.queue = %(queue)s::text AND task.id = outcome.id AND task.claim_id = outcome.claim_id AND task.status = 'running'
    RETURNING task.*, outcome.reason, outcome.error_type, outcome.error, outcome.traceback
), failed AS (
    INSERT INTO {schema}.attempt (
        queue, task_id, type, attempt, claim_id, runner_id, started_at, finished_at, error_type, error, traceback
    )
    SELECT queue, id, type, attempt, claim_id, runner_id, claimed_at, clock_timestamp(), error_type, error, traceback
    FROM ended
    WHERE error_type IS NOT NULL
)
INSERT INTO {schema}.dead_task (
    queue, id, type, priority, payload, maturity_at, created_at, started_at, finished_at, attempt, crashes, runner_id, claim_id,
    unique_key, tags, headers, options, lineage, error
)
SELECT
    queue, id, type, priority, payload, maturity_at, created_at, claimed_at, clock_timestamp(), attempt, crashes, runner_id,
    claim_id, unique_key, tags, headers, options, lineage, reason
FROM ended
ON CONFLICT (queue, id) DO UPDATE
SET attempt = excluded.attempt, finished_at = excluded.finished_at, error = excluded.error
RETURNING id::text
