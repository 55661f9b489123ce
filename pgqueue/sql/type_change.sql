-- Change what operators say about a task type. Merged into what stands there, so that changes made at the same time do not lose one
-- another. Waits for another change of the same row. Parameters: name, in any spelling; merged: overrides to set, as a JSON object;
-- removed: names of overrides to take back (NULL: none); clears: whether to take back all; disables (NULL: leaves it as it is; a
-- disabled one keeps its instant). Result: name, or no row where no runner has registered it.
UPDATE {schema}.task_type AS known
SET overrides = CASE WHEN %(clears)s::boolean THEN '{}' ELSE known.overrides - coalesce(%(removed)s::text[], '{}') END
        || coalesce(%(merged)s::jsonb, '{}'),
    disabled_at = CASE
        WHEN %(disables)s::boolean THEN coalesce(known.disabled_at, clock_timestamp())
        WHEN NOT %(disables)s::boolean THEN NULL
        ELSE known.disabled_at
    END,
    updated_at = clock_timestamp()
WHERE {schema}.fold(known.name) = {schema}.fold(%(name)s::text)
RETURNING known.name
