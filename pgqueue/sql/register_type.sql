-- Keep what is known of a task type. No row back: another spelling of its name is taken. Parameters: name, title, description,
-- payload_schema, options. Result: name.
INSERT INTO {schema}.task_type AS known (name, title, description, payload_schema, options)
SELECT %(name)s, %(title)s, %(description)s, %(payload_schema)s::jsonb, %(options)s::jsonb
WHERE NOT EXISTS (
    SELECT FROM {schema}.task_type AS other
    WHERE {schema}.fold(other.name) = {schema}.fold(%(name)s::text) AND other.name <> %(name)s::text
)
-- Without a condition here: a row that the condition leaves alone does not come back, as if the name were taken.
ON CONFLICT (name) DO UPDATE
SET title = excluded.title, description = excluded.description, payload_schema = excluded.payload_schema,
    options = excluded.options,
    updated_at = CASE
        WHEN (known.title, known.description, known.payload_schema, known.options)
            IS DISTINCT FROM (excluded.title, excluded.description, excluded.payload_schema, excluded.options)
            THEN clock_timestamp()
        ELSE known.updated_at
    END
RETURNING name
