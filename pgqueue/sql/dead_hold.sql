-- Hold a dead task, to be retried. Waits for whoever locks it. Parameters: id. Result: queue, type, unique_key.
SELECT queue, type, unique_key FROM {schema}.dead_task WHERE id = %(id)s::uuid ORDER BY queue FOR UPDATE
