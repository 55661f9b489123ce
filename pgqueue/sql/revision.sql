-- Which revision a schema is at, and the oldest revision whose programs may still use it.
-- Parameters: schema, its plain name. Reads the catalogue only, so that a missing schema is an answer and not an error.
-- Result: always one row; NULLs where nothing was migrated.
SELECT
    substring(max(note) FROM 'revision (\d+)') AS revision,
    substring(max(note) FROM 'oldest compatible (\d+)') AS oldest_compatible
FROM (
    SELECT obj_description(pg_class.oid, 'pg_class') AS note
    FROM pg_catalog.pg_class
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pg_class.relnamespace
    WHERE pg_namespace.nspname = %(schema)s AND pg_class.relname = 'alembic_version'
) AS notes
