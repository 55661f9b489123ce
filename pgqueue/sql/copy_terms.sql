-- What a bulk COPY must know before it is written: the database's clock, and the priorities that operators have set.
-- Result: now, priorities as a JSON object by type (NULL: there are none).
SELECT
    clock_timestamp() AS now,
    (
        SELECT jsonb_object_agg(name, (overrides -> 'priority')::smallint)
        FROM {schema}.task_type
        WHERE overrides ? 'priority'
    )::text AS priorities
