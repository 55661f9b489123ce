-- Let an idempotency key that was just taken name the task which held the unique key instead. Parameters: queue, key, task_id.
UPDATE {schema}.idempotency SET task_id = %(task_id)s WHERE queue = %(queue)s AND key = %(key)s
