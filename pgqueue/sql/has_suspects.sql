-- Whether tasks wait to run alone, of these types in these queues (NULL: all). Parameters: queues, types. Result: has_suspects.
SELECT EXISTS (
    SELECT FROM {schema}.task
    WHERE status = 'blocked' AND blocked_on = 'suspect' AND type = ANY(%(types)s::text[])
        AND (%(queues)s::text[] IS NULL OR queue = ANY(%(queues)s::text[]))
) AS has_suspects
