-- Write down attempts that ended their tasks: out of `task`, into `history`. Fenced by id and claim: a row whose claim is not
-- ours is left alone, and its id does not come back. Waits for rows, in the order of ids given, which must be sorted.
-- Parameters: queue; arrays of one length: ids (sorted), claim_ids, statuses, results (JSON or NULL), reasons.
-- Result: id of each task settled.
WITH finished AS (
    DELETE FROM {schema}.task AS task
    USING unnest(
        %(ids)s::uuid[], %(claim_ids)s::uuid[], %(statuses)s::{schema}.status[], %(results)s::text[], %(reasons)s::text[]
    ) AS outcome (id, claim_id, status, result, reason)
    WHERE task.queue = %(queue)s::text AND task.id = outcome.id AND task.claim_id = outcome.claim_id AND task.status = 'running'
    RETURNING
        task.id, task.type, outcome.status, task.priority, task.payload, task.maturity_at, task.created_at, task.claimed_at,
        task.attempt, task.crashes, task.runner_id, task.claim_id, task.tags, task.headers, task.lineage, outcome.result,
        outcome.reason
)
INSERT INTO {schema}.history (
    queue, id, type, status, priority, payload, maturity_at, created_at, started_at, finished_at, attempt, crashes, runner_id,
    claim_id, tags, headers, lineage, result, reason
)
SELECT
    %(queue)s::text, id, type, status, priority, payload, maturity_at, created_at, claimed_at, clock_timestamp(), attempt,
    crashes, runner_id, claim_id, tags, headers, lineage, result::jsonb, reason
FROM finished
RETURNING id::text
