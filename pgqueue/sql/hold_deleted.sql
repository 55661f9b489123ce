-- Hold a deleted task, to be restored. Waits for whoever locks it. Parameters: queue, id. Result: its unique key.
SELECT decode(lineage #>> '{deleted,unique_key}', 'hex') AS unique_key
FROM {schema}.history
WHERE queue = %(queue)s::text AND id = %(id)s::uuid AND status = 'deleted'
FOR UPDATE
