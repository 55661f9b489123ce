-- Say that this runner lives, and register it where it is not known (any more). Parameters: id, name, kind, host, pid, version,
-- app, queues, types, concurrency, running_count. Result: wanted.
INSERT INTO {schema}.runner AS runner (
    id, name, kind, host, pid, version, app, queues, types, concurrency, running_count
)
VALUES (
    %(id)s, %(name)s, %(kind)s, %(host)s, %(pid)s, %(version)s, %(app)s, %(queues)s::text[], %(types)s::text[], %(concurrency)s,
    %(running_count)s
)
ON CONFLICT (id) DO UPDATE SET heartbeat_at = clock_timestamp(), running_count = excluded.running_count
RETURNING wanted
