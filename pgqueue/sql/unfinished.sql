-- Whether anything is ready or running, of these types in these queues (NULL: all), or due and not promoted yet, or waits to run
-- alone. A question for each status, so that each has its partial index. Parameters: queues, types. Result: is_unfinished.
SELECT
    EXISTS (
        SELECT FROM {schema}.task
        WHERE status = 'ready' AND type = ANY(%(types)s::text[])
            AND (%(queues)s::text[] IS NULL OR queue = ANY(%(queues)s::text[]))
    )
    OR EXISTS (
        SELECT FROM {schema}.task
        WHERE status = 'running' AND type = ANY(%(types)s::text[])
            AND (%(queues)s::text[] IS NULL OR queue = ANY(%(queues)s::text[]))
    )
    OR EXISTS (
        SELECT FROM {schema}.task
        WHERE status = 'scheduled' AND maturity_at <= clock_timestamp() AND type = ANY(%(types)s::text[])
            AND (%(queues)s::text[] IS NULL OR queue = ANY(%(queues)s::text[]))
    )
    OR EXISTS (
        SELECT FROM {schema}.task
        WHERE status = 'blocked' AND blocked_on = 'suspect' AND type = ANY(%(types)s::text[])
            AND (%(queues)s::text[] IS NULL OR queue = ANY(%(queues)s::text[]))
    ) AS is_unfinished
