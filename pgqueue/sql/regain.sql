-- Lease what a lost lane had locked, where nobody has owned it since: its tasks have ended here, or still run. A row that went back
-- carries the claim it went back with, so one that was leased meanwhile has another than before; no clock is asked. What the last
-- COMMIT of the lane leased after all is found as well. Skips what others hold: by now, or still, since the server says that it
-- ends a connection before it lets go of its locks.
-- Parameters: queue, ids, runner_id, claim_id, claimed_at (when they were locked); claims_before: a JSON object of id to the claim
-- that was on the row then, for those that had one. Result: id of each that is leased under this claim
-- (true), and of each that was skipped (false).
-- Status: as in remove.sql.
WITH free AS MATERIALIZED (
    SELECT locked.id
    FROM {schema}.task AS locked
    WHERE locked.queue = %(queue)s::text AND locked.id = ANY(%(ids)s::uuid[]) AND coalesce(locked.status = 'ready', false)
        AND locked.claim_id::text IS NOT DISTINCT FROM (%(claims_before)s::jsonb ->> locked.id::text)
    ORDER BY locked.id
    FOR UPDATE SKIP LOCKED
), leased AS (
    UPDATE {schema}.task
    SET status = 'running', attempt = attempt + 1, runner_id = %(runner_id)s::uuid, claim_id = %(claim_id)s::uuid,
        claimed_at = %(claimed_at)s::timestamptz, updated_at = clock_timestamp()
    WHERE queue = %(queue)s::text AND id = ANY(ARRAY(SELECT free.id FROM free))
    RETURNING id
)
SELECT id::text, true FROM leased
UNION ALL
SELECT task.id::text, task.status = 'running'
FROM {schema}.task
WHERE task.queue = %(queue)s::text AND task.id = ANY(%(ids)s::uuid[]) AND task.id NOT IN (SELECT leased.id FROM leased)
    AND (
        (task.runner_id = %(runner_id)s::uuid AND task.claim_id = %(claim_id)s::uuid)
        OR (
            coalesce(task.status = 'ready', false)
            AND task.claim_id::text IS NOT DISTINCT FROM (%(claims_before)s::jsonb ->> task.id::text)
        )
    )
