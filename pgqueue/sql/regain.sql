-- Lease what a lost lane had locked, where nobody has touched it since: its tasks have ended here, or still run. Skips what others
-- hold by now. Parameters: queue, ids, runner_id, claim_id, claimed_at (when they were locked). Result: id.
UPDATE {schema}.task
SET status = 'running', attempt = attempt + 1, runner_id = %(runner_id)s::uuid, claim_id = %(claim_id)s::uuid,
    claimed_at = %(claimed_at)s::timestamptz, updated_at = clock_timestamp()
WHERE queue = %(queue)s::text AND id = ANY(ARRAY(
    SELECT locked.id
    FROM {schema}.task AS locked
    WHERE locked.queue = %(queue)s::text AND locked.id = ANY(%(ids)s::uuid[]) AND locked.status = 'ready'
        AND locked.updated_at <= %(claimed_at)s::timestamptz
    ORDER BY locked.id
    FOR UPDATE SKIP LOCKED
))
RETURNING id::text
