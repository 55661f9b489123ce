-- Give back a batch of what a child process held that its supervisor has seen dead. A crash spends no attempt; it is counted for
-- the tasks that were started (none, where the supervisor killed it itself). What follows from a count, and the new claim,
-- are as in rescue.sql. Rows that are being settled are skipped. Parameters: runner_id, started_ids, spared_ids (those that a successor takes over),
-- max_crashes, limit. Result: id, status.
WITH abandoned AS (
    SELECT
        task.queue, task.id, started.is_started,
        least(task.crashes + CASE WHEN started.is_started THEN 1 ELSE 0 END, 32767)::smallint AS crashes
    FROM {schema}.task
    CROSS JOIN LATERAL (SELECT task.id = ANY(%(started_ids)s::uuid[]) AS is_started) AS started
    WHERE task.status = 'running' AND task.runner_id = %(runner_id)s::uuid AND task.id <> ALL(%(spared_ids)s::uuid[])
    ORDER BY task.queue, task.id
    LIMIT %(limit)s::bigint
    FOR UPDATE OF task SKIP LOCKED
), ended AS (
    DELETE FROM {schema}.task AS task
    USING abandoned
    WHERE task.queue = abandoned.queue AND task.id = abandoned.id AND task.status = 'running'
        AND abandoned.is_started AND abandoned.crashes >= 2 + %(max_crashes)s::integer
    RETURNING
        task.*, abandoned.crashes AS crash_count,
        format('its process crashed %%s times, %%s of them while it ran alone', abandoned.crashes, abandoned.crashes - 2) AS error
), failed AS (
    INSERT INTO {schema}.attempt (
        queue, task_id, type, attempt, claim_id, runner_id, started_at, finished_at, error_type, error, traceback
    )
    SELECT queue, id, type, attempt, claim_id, runner_id, claimed_at, clock_timestamp(), 'ProcessCrashed', error, NULL
    FROM ended
), buried AS (
    INSERT INTO {schema}.dead_task (
        queue, id, type, priority, payload, maturity_at, created_at, started_at, finished_at, attempt, crashes, runner_id, claim_id,
        unique_key, tags, headers, options, lineage, error
    )
    SELECT
        queue, id, type, priority, payload, maturity_at, created_at, claimed_at, clock_timestamp(), attempt, crash_count,
        runner_id, claim_id, unique_key, tags, headers, options, lineage, error
    FROM ended
    ON CONFLICT (queue, id) DO UPDATE
    SET attempt = excluded.attempt, crashes = excluded.crashes, finished_at = excluded.finished_at, error = excluded.error
), given_back AS (
    UPDATE {schema}.task AS task
    SET status = CASE WHEN abandoned.crashes >= 2 THEN 'blocked' ELSE 'ready' END::{schema}.status,
        blocked_on = CASE WHEN abandoned.crashes >= 2 THEN 'suspect' END,
        attempt = greatest(task.attempt - 1, 0), crashes = abandoned.crashes, runner_id = NULL,
        claim_id = gen_random_uuid(), updated_at = clock_timestamp()
    FROM abandoned
    WHERE task.queue = abandoned.queue AND task.id = abandoned.id AND task.status = 'running'
        AND NOT (abandoned.is_started AND abandoned.crashes >= 2 + %(max_crashes)s::integer)
    RETURNING task.id, task.status
)
SELECT id::text, status::text FROM given_back
UNION ALL
SELECT id::text, 'dead' FROM ended
