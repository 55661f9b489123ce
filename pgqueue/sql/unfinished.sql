-- Whether anything is ready or running, of these types in these queues (NULL: all), or due and not promoted yet.
-- Parameters: queues, types. Result: is_unfinished.
SELECT EXISTS (
    SELECT FROM {schema}.task
    WHERE (%(queues)s::text[] IS NULL OR queue = ANY(%(queues)s::text[])) AND type = ANY(%(types)s::text[])
        AND (status IN ('ready', 'running') OR (status = 'scheduled' AND maturity_at <= clock_timestamp()))
) AS is_unfinished
