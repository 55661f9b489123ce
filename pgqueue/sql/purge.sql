-- Remove every trace of one task that does not run: the row, wherever it is, its failed attempts and its log. Its idempotency key
-- stays until it expires. Locks the row, and waits for it. Parameters: queue, id. Result: id; no row: it runs, or is not there.
WITH waiting AS (
    DELETE FROM {schema}.task
    WHERE queue = %(queue)s::text AND id = %(id)s::uuid AND status IN ('scheduled', 'blocked', 'ready')
    RETURNING id
), dead AS (
    DELETE FROM {schema}.dead_task WHERE queue = %(queue)s::text AND id = %(id)s::uuid RETURNING id
), ended AS (
    DELETE FROM {schema}.history WHERE queue = %(queue)s::text AND id = %(id)s::uuid RETURNING id
), gone AS (
    SELECT id FROM waiting UNION ALL SELECT id FROM dead UNION ALL SELECT id FROM ended
), attempts AS (
    DELETE FROM {schema}.attempt WHERE task_id = ANY(ARRAY(SELECT id FROM gone))
), lines AS (
    DELETE FROM {schema}.task_log WHERE task_id = ANY(ARRAY(SELECT id FROM gone))
)
SELECT id FROM gone
