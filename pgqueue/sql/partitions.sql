-- The partitions of a table, and the database's clock.
-- Parameters: schema and table, plain names; now, or NULL for the database's own clock.
-- Result: one row per attached partition by name; none if the table is not there. `upper_at` is NULL for the default
-- partition, and only that one has `size_bytes` and `guards`: constraints that keep a day's rows out of it.
SELECT
    child.relname::text AS name,
    bounds.text = 'DEFAULT' AS is_default,
    substring(bounds.text FROM 'TO \(''([^'']+)''\)')::timestamptz AS upper_at,
    CASE WHEN bounds.text = 'DEFAULT' THEN pg_total_relation_size(child.oid) END AS size_bytes,
    ARRAY(
        SELECT pg_constraint.conname::text
        FROM pg_catalog.pg_constraint
        WHERE bounds.text = 'DEFAULT' AND pg_constraint.conrelid = child.oid AND pg_constraint.conname ~ '^pgqueue_without_\d{8}$'
        ORDER BY pg_constraint.conname
    ) AS guards,
    coalesce(%(now)s::timestamptz, now()) AS now
FROM pg_catalog.pg_namespace
JOIN pg_catalog.pg_class AS parent ON parent.relnamespace = pg_namespace.oid AND parent.relname = %(table)s
JOIN pg_catalog.pg_inherits ON pg_inherits.inhparent = parent.oid
JOIN pg_catalog.pg_class AS child ON child.oid = pg_inherits.inhrelid
CROSS JOIN LATERAL (SELECT pg_get_expr(child.relpartbound, child.oid) AS text) AS bounds
WHERE pg_namespace.nspname = %(schema)s
ORDER BY child.relname
