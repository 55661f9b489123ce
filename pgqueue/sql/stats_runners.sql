-- The processes at work, with how long ago each last beat by the database's clock. Result: id, name, kind, host, pid, version,
-- wanted, concurrency, running_count, silent_seconds, started_at.
SELECT
    id, name, kind, host, pid, version, wanted, concurrency, running_count,
    extract(epoch FROM clock_timestamp() - heartbeat_at)::float8 AS silent_seconds, started_at
FROM {schema}.runner
ORDER BY kind, name, id
