-- Who stands in a migration's way: the one who migrates, and transactions that have touched the schema's tables.
-- Parameters: schema, its plain name.
-- Result: up to 5 rows, the migrating one first, then the oldest transactions.
WITH key AS (
    SELECT hashtextextended('pgqueue migrate ' || %(schema)s, 0) AS value
),
holders AS (
    SELECT pg_locks.pid, bool_or(pg_locks.locktype = 'advisory') AS is_migrating
    FROM pg_catalog.pg_locks, key
    WHERE pg_locks.granted
      AND pg_locks.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
      AND (
          pg_locks.locktype = 'advisory' AND pg_locks.objsubid = 1
          AND pg_locks.classid::bigint = (key.value >> 32) & 4294967295
          AND pg_locks.objid::bigint = key.value & 4294967295
          OR pg_locks.locktype = 'relation' AND pg_locks.relation IN (
              SELECT pg_class.oid
              FROM pg_catalog.pg_class
              JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pg_class.relnamespace
              WHERE pg_namespace.nspname = %(schema)s
          )
      )
    GROUP BY pg_locks.pid
)
SELECT
    holders.pid,
    holders.is_migrating,
    coalesce(pg_stat_activity.application_name, '') AS application,
    coalesce(extract(epoch FROM clock_timestamp() - pg_stat_activity.xact_start), 0)::float8 AS open_seconds
FROM holders
JOIN pg_catalog.pg_stat_activity ON pg_stat_activity.pid = holders.pid
WHERE holders.pid <> pg_backend_pid()
ORDER BY holders.is_migrating DESC, pg_stat_activity.xact_start, holders.pid
LIMIT 5
