-- Copy tasks that have ended, and are locked by this transaction, into `history`; remove.sql takes them out of `task`. Two
-- statements: this one, which may fail on a value, stands under a savepoint; a DELETE there would give every row a MultiXact,
-- since lock and delete would be by different transaction ids. Instants are clock_timestamp(): now() is that of the lane's BEGIN.
-- Parameters: queue, ids, runner_id, claim_id, claimed_at; outcomes: as settle.sql, NULL where all simply succeeded without a
-- result, which spares each row its look-up.
-- Status: as in remove.sql.
INSERT INTO {schema}.history (
    queue, id, type, status, priority, payload, maturity_at, created_at, started_at, finished_at, attempt, crashes, runner_id,
    claim_id, tags, headers, lineage, result, reason
)
SELECT
    task.queue, task.id, task.type, coalesce(entry.outcome ->> 'status', 'succeeded')::{schema}.status, task.priority,
    task.payload, task.maturity_at, task.created_at, %(claimed_at)s::timestamptz, clock_timestamp(), task.attempt + 1,
    task.crashes, %(runner_id)s::uuid, %(claim_id)s::uuid, task.tags, task.headers, task.lineage, entry.outcome -> 'result',
    entry.outcome ->> 'reason'
FROM {schema}.task
CROSS JOIN LATERAL (
    SELECT CASE WHEN %(outcomes)s::jsonb IS NOT NULL THEN %(outcomes)s::jsonb -> task.id::text END AS outcome
) AS entry
WHERE task.queue = %(queue)s::text AND task.id = ANY(%(ids)s::uuid[]) AND coalesce(task.status = 'ready', false)
