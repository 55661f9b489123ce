-- Delete a waiting task: into history, with what history has no column for in its lineage, so that restore.sql can bring it back.
-- Locks the row, and waits for it. No row back: it does not wait. Parameters: queue, id, reason. Result: id.
WITH waiting AS (
    DELETE FROM {schema}.task
    WHERE queue = %(queue)s::text AND id = %(id)s::uuid AND status IN ('scheduled', 'blocked', 'ready')
    RETURNING *
)
INSERT INTO {schema}.history (
    queue, id, type, status, priority, payload, maturity_at, created_at, started_at, finished_at, attempt, crashes, claim_id, tags,
    headers, lineage, reason
)
SELECT
    queue, id, type, 'deleted', priority, payload, maturity_at, created_at, claimed_at, clock_timestamp(), attempt, crashes,
    claim_id, tags, headers,
    coalesce(lineage, '{}') || jsonb_build_object('deleted', jsonb_build_object(
        'deleted_at', clock_timestamp(), 'status', status, 'blocked_on', blocked_on, 'expires_at', expires_at,
        'unique_key', encode(unique_key, 'hex'), 'options', options
    )),
    %(reason)s::text
FROM waiting
RETURNING id
