-- Take tasks over from a child that was killed because they outstayed their timeout: running under its id, or, where they were
-- only locked, ready again. The attempt counts. Rows that others hold are skipped.
-- Parameters: old_runner_id, runner_id, claim_id; arrays of one length: queues, ids.
-- Result: queue; and as of claim.sql: id, type, attempt, priority, maturity_at, claimed_at, payload, options, is_expired.
WITH outstayed AS (
    SELECT task.queue, task.id
    FROM {schema}.task
    JOIN unnest(%(queues)s::text[], %(ids)s::uuid[]) AS killed (queue, id) ON task.queue = killed.queue AND task.id = killed.id
    WHERE (task.status = 'running' AND task.runner_id = %(old_runner_id)s::uuid) OR task.status = 'ready'
    ORDER BY task.queue, task.id
    FOR UPDATE OF task SKIP LOCKED
)
UPDATE {schema}.task AS task
SET status = 'running', attempt = task.attempt + CASE WHEN task.status = 'ready' THEN 1 ELSE 0 END,
    runner_id = %(runner_id)s::uuid, claim_id = %(claim_id)s::uuid,
    claimed_at = CASE WHEN task.status = 'running' THEN task.claimed_at ELSE clock_timestamp() END, updated_at = clock_timestamp()
FROM outstayed
WHERE task.queue = outstayed.queue AND task.id = outstayed.id
RETURNING
    task.queue, task.id::text, task.type, task.attempt, task.priority, task.maturity_at, task.claimed_at, task.payload::text,
    task.options::text, task.expires_at <= now() AS is_expired
