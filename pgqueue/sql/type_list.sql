-- Task types with what operators have set of them, by name. Parameters: name (of one, in any spelling; NULL: all).
-- Result: name, title, description, payload_schema, options and overrides as JSON text, disabled_at, first_seen_at, updated_at, and
-- the names of the live runners that know it.
SELECT
    known.name, known.title, known.description, known.payload_schema::text, known.options::text, known.overrides::text,
    known.disabled_at, known.first_seen_at, known.updated_at,
    ARRAY(
        SELECT DISTINCT runner.name
        FROM {schema}.runner
        WHERE runner.kind = 'runner' AND known.name = ANY(runner.types)
        ORDER BY runner.name
    ) AS runners
FROM {schema}.task_type AS known
WHERE %(name)s::text IS NULL OR {schema}.fold(known.name) = {schema}.fold(%(name)s::text)
ORDER BY known.name
