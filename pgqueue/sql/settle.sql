-- Write down attempts that ended their tasks: out of `task`, into `history`. Fenced by id and claim: a row whose claim is not
-- ours is left alone, and its id does not come back. Waits for rows, in id order.
-- The claims are looked up in a JSON object rather than joined: a join leaves the planner the choice to read the whole table.
-- `runner_id` stands exactly on running rows; a condition on status would offer the planner the index of all running rows.
-- Parameters: queue, runner_id; ids (sorted); claims: a JSON object of id to claim; outcomes: a JSON object of id to
-- {status, result, reason}, for those that are not a plain success without a result. Result: id of each task settled.
WITH finished AS (
    DELETE FROM {schema}.task
    WHERE queue = %(queue)s::text AND id = ANY(%(ids)s::uuid[]) AND runner_id = %(runner_id)s::uuid
        AND claim_id::text = %(claims)s::jsonb ->> id::text
    RETURNING
        id, type, priority, payload, maturity_at, created_at, claimed_at, attempt, crashes, runner_id, claim_id, tags, headers,
        lineage, cancel_reason, %(outcomes)s::jsonb -> id::text AS outcome
)
INSERT INTO {schema}.history (
    queue, id, type, status, priority, payload, maturity_at, created_at, started_at, finished_at, attempt, crashes, runner_id,
    claim_id, tags, headers, lineage, result, reason
)
SELECT
    %(queue)s::text, id, type, coalesce(outcome ->> 'status', 'succeeded')::{schema}.status, priority, payload, maturity_at,
    created_at, claimed_at, clock_timestamp(), attempt, crashes, runner_id, claim_id, tags, headers, lineage, outcome -> 'result',
    CASE WHEN outcome ->> 'status' = 'cancelled' THEN coalesce(cancel_reason, outcome ->> 'reason') ELSE outcome ->> 'reason' END
FROM finished
RETURNING id::text
