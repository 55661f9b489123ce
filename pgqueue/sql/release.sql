-- Let tasks go back to wait: retried after a failure, snoozed, or given back as they came. One that somebody asked to cancel
-- meanwhile ends as cancelled instead. Fenced and ordered as settle.sql; the rows are locked first, so that a cancellation that
-- comes at the same moment is either seen here or finds the task waiting. The unique key and the claim stay on the row. A suspect
-- (rescue.sql) waits to run alone again.
-- Parameters: queue; arrays of one length: ids (sorted), claim_ids, delays (seconds from now; NULL keeps the maturity and so
-- the place in line), refunds (attempts given back: 0 or 1), error_types (NULL: no failure to note), errors, tracebacks, marks
-- (JSON merged into the options, or NULL). Result: id of each task settled.
WITH outcome AS MATERIALIZED (
    SELECT * FROM unnest(
        %(ids)s::uuid[], %(claim_ids)s::uuid[], %(delays)s::float8[], %(refunds)s::integer[], %(error_types)s::text[],
        %(errors)s::text[], %(tracebacks)s::text[], %(marks)s::text[]
    ) AS outcome (id, claim_id, delay, refund, error_type, error, traceback, mark)
), held AS MATERIALIZED (
    SELECT task.id, task.claim_id, task.cancel_requested_at IS NOT NULL AS is_cancelled
    FROM {schema}.task
    WHERE task.queue = %(queue)s::text AND task.id = ANY(%(ids)s::uuid[])
        AND task.runner_id = %(runner_id)s::uuid
    ORDER BY task.id
    FOR UPDATE
), released AS (
    UPDATE {schema}.task AS task
    SET status = CASE
            WHEN coalesce(outcome.delay, 0) > 0 THEN 'scheduled'
            WHEN task.crashes >= 2 THEN 'blocked'
            ELSE 'ready'
        END::{schema}.status,
        blocked_on = CASE WHEN coalesce(outcome.delay, 0) <= 0 AND task.crashes >= 2 THEN 'suspect' END,
        maturity_at = CASE
            WHEN outcome.delay IS NULL THEN task.maturity_at
            ELSE least(clock_timestamp() + make_interval(secs => outcome.delay), '9998-12-31 00:00+00')
        END,
        attempt = task.attempt - outcome.refund,
        options = CASE WHEN outcome.mark IS NULL THEN task.options ELSE coalesce(task.options, '{}') || outcome.mark::jsonb END,
        runner_id = NULL, updated_at = clock_timestamp()
    FROM outcome
    JOIN held USING (id, claim_id)
    WHERE task.queue = %(queue)s::text AND task.id = ANY(%(ids)s::uuid[]) AND task.id = outcome.id AND NOT held.is_cancelled
    RETURNING task.id, task.type, task.attempt, task.claim_id, task.claimed_at
), cancelled AS (
    DELETE FROM {schema}.task AS task
    USING outcome
    JOIN held USING (id, claim_id)
    WHERE task.queue = %(queue)s::text AND task.id = ANY(%(ids)s::uuid[]) AND task.id = outcome.id AND held.is_cancelled
    RETURNING task.*
), kept AS (
    INSERT INTO {schema}.history (
        queue, id, type, status, priority, payload, maturity_at, created_at, started_at, finished_at, attempt, crashes, runner_id,
        claim_id, tags, headers, lineage, reason
    )
    SELECT
        queue, id, type, 'cancelled', priority, payload, maturity_at, created_at, claimed_at, clock_timestamp(), attempt, crashes,
        runner_id, claim_id, tags, headers, lineage, coalesce(cancel_reason, 'cancelled while it ran')
    FROM cancelled
), failed AS (
    INSERT INTO {schema}.attempt (
        queue, task_id, type, attempt, claim_id, runner_id, started_at, finished_at, error_type, error, traceback
    )
    SELECT
        %(queue)s::text, ended.id, ended.type, ended.attempt, ended.claim_id, %(runner_id)s::uuid, ended.claimed_at,
        clock_timestamp(), outcome.error_type, outcome.error, outcome.traceback
    FROM (
        SELECT id, type, attempt, claim_id, claimed_at FROM released
        UNION ALL
        SELECT id, type, attempt, claim_id, claimed_at FROM cancelled
    ) AS ended
    JOIN outcome USING (id)
    WHERE outcome.error_type IS NOT NULL
)
SELECT id::text FROM released
UNION ALL
SELECT id::text FROM cancelled
