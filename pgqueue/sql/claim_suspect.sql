-- Claim one task that crashed its process before, to run it alone, under a lease. Suspects are few: no watermark is needed.
-- Locks what it takes and skips what others hold. Parameters: queues (NULL: all), types, runner_id, claim_id.
-- Result, one row or none: queue; and as of claim.sql: id, type, attempt, priority, maturity_at, claimed_at, payload, options,
-- is_expired.
WITH suspect AS (
    SELECT queue, id
    FROM {schema}.task
    WHERE status = 'blocked' AND blocked_on = 'suspect' AND type = ANY(%(types)s::text[])
        AND (%(queues)s::text[] IS NULL OR queue = ANY(%(queues)s::text[]))
    ORDER BY priority DESC, maturity_at, id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE {schema}.task AS task
SET status = 'running', blocked_on = NULL, attempt = attempt + 1, runner_id = %(runner_id)s::uuid, claim_id = %(claim_id)s::uuid,
    claimed_at = clock_timestamp(), updated_at = clock_timestamp()
FROM suspect
WHERE task.queue = suspect.queue AND task.id = suspect.id
RETURNING
    task.queue, task.id::text, task.type, task.attempt, task.priority, task.maturity_at, task.claimed_at, task.payload::text,
    task.options::text, task.expires_at <= now() AS is_expired
