-- Whether tasks wait to run alone, of these types in these queues (NULL: all); disabled types do not count. Parameters: queues, types. Result: has_suspects.
SELECT EXISTS (
    SELECT FROM {schema}.task
    WHERE status = 'blocked' AND blocked_on = 'suspect' AND type = ANY(%(types)s::text[])
        AND (%(queues)s::text[] IS NULL OR queue = ANY(%(queues)s::text[]))
        AND NOT EXISTS (
            SELECT FROM {schema}.task_type AS known WHERE known.name = task.type AND known.disabled_at IS NOT NULL
        )
) AS has_suspects
