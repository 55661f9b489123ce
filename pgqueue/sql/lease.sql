-- Write down claims that were row locks so far: tasks that run longer than their lane's patience, or that did not simply succeed.
-- In the transaction that locked them; owned once it commits. Parameters: queue, ids, runner_id, claim_id, claimed_at.
-- Status: as in remove.sql.
UPDATE {schema}.task
SET status = 'running', attempt = attempt + 1, runner_id = %(runner_id)s::uuid, claim_id = %(claim_id)s::uuid,
    claimed_at = %(claimed_at)s::timestamptz, updated_at = clock_timestamp()
WHERE queue = %(queue)s::text AND id = ANY(%(ids)s::uuid[]) AND coalesce(status = 'ready', false)
