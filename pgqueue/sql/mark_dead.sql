-- End a task by hand as failed, waiting or running: it is dead, and a running attempt is noted as failed. Fenced as
-- mark_succeeded.sql. No row back: it has ended. Parameters: queue, id, reason. Result: id.
WITH ended AS (
    DELETE FROM {schema}.task
    WHERE queue = %(queue)s::text AND id = %(id)s::uuid AND status IN ('scheduled', 'blocked', 'ready', 'running')
    RETURNING *
), failed AS (
    INSERT INTO {schema}.attempt (
        queue, task_id, type, attempt, runner_id, started_at, finished_at, error_type, error
    )
    SELECT queue, id, type, attempt, runner_id, claimed_at, clock_timestamp(), 'MarkedFailed', %(reason)s::text
    FROM ended
    WHERE status = 'running'
)
INSERT INTO {schema}.dead_task (
    queue, id, type, priority, payload, maturity_at, created_at, started_at, finished_at, attempt, crashes, runner_id, claim_id,
    unique_key, tags, headers, options, lineage, error
)
SELECT
    queue, id, type, priority, payload, maturity_at, created_at, claimed_at, clock_timestamp(), attempt, crashes, runner_id,
    gen_random_uuid(), unique_key, tags, headers, options,
    coalesce(lineage, '{}') || jsonb_build_object(
        'marked', jsonb_build_object('marked_at', clock_timestamp(), 'status', 'dead', 'before', status)
    ),
    %(reason)s::text
FROM ended
RETURNING id
