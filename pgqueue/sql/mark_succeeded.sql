-- End a task by hand as succeeded, waiting or running; the attempt that runs finds its lease lost, since the claim that history
-- gets is another. Locks the row, and waits for it. No row back: it has ended. Parameters: queue, id, result (JSON), reason.
-- Result: id.
WITH ended AS (
    DELETE FROM {schema}.task
    WHERE queue = %(queue)s::text AND id = %(id)s::uuid AND status IN ('scheduled', 'blocked', 'ready', 'running')
    RETURNING *
)
INSERT INTO {schema}.history (
    queue, id, type, status, priority, payload, maturity_at, created_at, started_at, finished_at, attempt, crashes, runner_id,
    claim_id, tags, headers, lineage, result, reason
)
SELECT
    queue, id, type, 'succeeded', priority, payload, maturity_at, created_at, claimed_at, clock_timestamp(), attempt, crashes,
    runner_id, gen_random_uuid(), tags, headers,
    coalesce(lineage, '{}') || jsonb_build_object(
        'marked', jsonb_build_object('marked_at', clock_timestamp(), 'status', 'succeeded', 'before', status)
    ),
    %(result)s::jsonb, %(reason)s::text
FROM ended
RETURNING id
