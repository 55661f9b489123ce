-- Who holds an idempotency key. Parameters: queue, key. Result: task_id, task_queue.
SELECT task_id, task_queue FROM {schema}.idempotency WHERE queue = %(queue)s AND key = %(key)s
