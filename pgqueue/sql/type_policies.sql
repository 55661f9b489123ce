-- What operators say about types of a runner, where they say anything. Parameters: types (canonical names).
-- Result: name, overrides as JSON text, is_disabled.
SELECT name, overrides::text, disabled_at IS NOT NULL AS is_disabled
FROM {schema}.task_type
WHERE name = ANY(%(types)s::text[]) AND (overrides <> '{}' OR disabled_at IS NOT NULL)
ORDER BY name
