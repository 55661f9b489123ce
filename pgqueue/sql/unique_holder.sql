-- The unfinished tasks that hold these unique keys. Parameters: queues, unique_keys (arrays of one length).
-- Result: position (0-based, of the arrays), id.
SELECT wanted.position - 1 AS position, task.id
FROM unnest(%(queues)s::text[], %(unique_keys)s::bytea[]) WITH ORDINALITY AS wanted (queue, unique_key, position)
CROSS JOIN LATERAL (
    SELECT holder.id FROM {schema}.task AS holder
    WHERE holder.queue = wanted.queue AND holder.unique_key = wanted.unique_key
) AS task
ORDER BY wanted.position
