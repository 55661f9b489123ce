-- Let tasks go back to wait: retried after a failure, snoozed, or given back as they came. Fenced and ordered as settle.sql.
-- The unique key and the claim stay on the row. Parameters: queue; arrays of one length: ids (sorted), claim_ids,
-- delays (seconds from now; NULL keeps the maturity and so the place in line), refunds (attempts given back: 0 or 1),
-- error_types (NULL: no failure to note), errors, tracebacks, marks (JSON merged into the options, or NULL). Result: id of each task settled.
WITH outcome AS MATERIALIZED (
    SELECT * FROM unnest(
        %(ids)s::uuid[], %(claim_ids)s::uuid[], %(delays)s::float8[], %(refunds)s::integer[], %(error_types)s::text[],
        %(errors)s::text[], %(tracebacks)s::text[], %(marks)s::text[]
    ) AS outcome (id, claim_id, delay, refund, error_type, error, traceback, mark)
), released AS (
    UPDATE {schema}.task AS task
    SET status = CASE WHEN coalesce(outcome.delay, 0) > 0 THEN 'scheduled' ELSE 'ready' END::{schema}.status,
        maturity_at = CASE
            WHEN outcome.delay IS NULL THEN task.maturity_at
            ELSE least(clock_timestamp() + make_interval(secs => outcome.delay), '9998-12-31 00:00+00')
        END,
        attempt = task.attempt - outcome.refund,
        options = CASE WHEN outcome.mark IS NULL THEN task.options ELSE coalesce(task.options, '{}') || outcome.mark::jsonb END,
        runner_id = NULL, cancel_requested_at = NULL, updated_at = clock_timestamp()
    FROM outcome
    WHERE task.queue = %(queue)s::text AND task.id = outcome.id AND task.claim_id = outcome.claim_id AND task.status = 'running'
    RETURNING task.id, task.type, task.attempt, task.claim_id, task.claimed_at
), failed AS (
    INSERT INTO {schema}.attempt (
        queue, task_id, type, attempt, claim_id, runner_id, started_at, finished_at, error_type, error, traceback
    )
    SELECT
        %(queue)s::text, released.id, released.type, released.attempt, released.claim_id, %(runner_id)s::uuid,
        released.claimed_at, clock_timestamp(), outcome.error_type, outcome.error, outcome.traceback
    FROM released
    JOIN outcome USING (id)
    WHERE outcome.error_type IS NOT NULL
)
SELECT id::text FROM released
