-- Give back a batch of what a silent runner held. A crash spends no attempt; it is counted for every row, since nobody knows which
-- were started. One that crashed twice is a suspect and waits to run alone (blocked on 'suspect'); one that went on to crash
-- max_crashes times then is dead, and the attempt noted. One guarded statement: a runner that has beaten since, or registered, is
-- left alone. Rows that are being settled are skipped. A claim that was taken away does not stay on the row, where it would say
-- that its own attempt had given it back (settled_claims.sql): another takes its place, so that the row still shows it was owned.
-- Parameters: runner_id with heartbeat_at as it was seen (NULL: it was not registered), max_crashes, limit. Result: id, status.
WITH abandoned AS (
    SELECT task.queue, task.id, least(task.crashes + 1, 32767)::smallint AS crashes
    FROM {schema}.task
    WHERE task.status = 'running' AND task.runner_id = %(runner_id)s::uuid
        AND (SELECT runner.heartbeat_at FROM {schema}.runner WHERE runner.id = %(runner_id)s::uuid)
            IS NOT DISTINCT FROM %(heartbeat_at)s::timestamptz
    ORDER BY task.queue, task.id
    LIMIT %(limit)s::bigint
    FOR UPDATE OF task SKIP LOCKED
), ended AS (
    DELETE FROM {schema}.task AS task
    USING abandoned
    WHERE task.queue = abandoned.queue AND task.id = abandoned.id AND task.status = 'running'
        AND abandoned.crashes >= 2 + %(max_crashes)s::integer
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
        AND abandoned.crashes < 2 + %(max_crashes)s::integer
    RETURNING task.id, task.status
)
SELECT id::text, status::text FROM given_back
UNION ALL
SELECT id::text, 'dead' FROM ended
