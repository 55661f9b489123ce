-- Hold a waiting task for a change. Waits for whoever locks it: a lane that runs it, until it closes. No row back: it does not wait.
-- Parameters: queue, id, now. Result: type, payload, unique_key, expires_at, and the instant.
SELECT type, payload::text, unique_key, expires_at, coalesce(%(now)s::timestamptz, clock_timestamp()) AS now
FROM {schema}.task
WHERE queue = %(queue)s::text AND id = %(id)s::uuid AND status IN ('scheduled', 'blocked', 'ready')
FOR UPDATE
