-- End tasks of which nothing is kept (history=False). Fenced and ordered as settle.sql. Parameters: queue; ids (sorted),
-- claim_ids. Result: id of each task settled.
DELETE FROM {schema}.task AS task
USING unnest(%(ids)s::uuid[], %(claim_ids)s::uuid[]) AS outcome (id, claim_id)
WHERE task.queue = %(queue)s::text AND task.id = outcome.id AND task.claim_id = outcome.claim_id AND task.status = 'running'
RETURNING task.id::text
