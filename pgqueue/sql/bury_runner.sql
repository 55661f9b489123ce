-- Forget a silent runner that holds nothing any more. Parameters: id, heartbeat_at as it was seen. Result: id.
DELETE FROM {schema}.runner
WHERE id = %(id)s AND heartbeat_at = %(heartbeat_at)s
    AND NOT EXISTS (SELECT FROM {schema}.task WHERE task.runner_id = runner.id AND task.status = 'running')
RETURNING id
