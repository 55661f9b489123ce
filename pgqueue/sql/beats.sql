-- When each runner last beat. Only a change counts, never the distance to a clock. Result: id, heartbeat_at.
SELECT id, heartbeat_at FROM {schema}.runner ORDER BY id
