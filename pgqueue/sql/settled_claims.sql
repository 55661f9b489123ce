-- Which attempts an earlier settle of unknown outcome did write down: ended, noted as failed, or waiting again. A row that goes
-- back keeps its claim until the next one, unless it was taken from its attempt (rescue.sql). Parameters: queue; arrays
-- of one length: ids, claim_ids. Result: id.
SELECT history.id::text
FROM unnest(%(ids)s::uuid[], %(claim_ids)s::uuid[]) AS outcome (id, claim_id)
JOIN {schema}.history ON history.id = outcome.id AND history.claim_id = outcome.claim_id
UNION ALL
SELECT dead_task.id::text
FROM unnest(%(ids)s::uuid[], %(claim_ids)s::uuid[]) AS outcome (id, claim_id)
JOIN {schema}.dead_task ON dead_task.id = outcome.id AND dead_task.claim_id = outcome.claim_id
UNION ALL
SELECT attempt.task_id::text
FROM unnest(%(ids)s::uuid[], %(claim_ids)s::uuid[]) AS outcome (id, claim_id)
JOIN {schema}.attempt ON attempt.task_id = outcome.id AND attempt.claim_id = outcome.claim_id
UNION ALL
SELECT task.id::text
FROM unnest(%(ids)s::uuid[], %(claim_ids)s::uuid[]) AS outcome (id, claim_id)
JOIN {schema}.task ON task.queue = %(queue)s::text AND task.id = outcome.id AND task.claim_id = outcome.claim_id
    AND task.status <> 'running'
