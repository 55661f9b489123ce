-- Insert one task. No row back: its unique key is taken by an unfinished task, or this very id was inserted before.
-- Waits for another transaction that inserted the same key and has not ended.
-- Parameters: id, queue, type, priority, payload, delay (seconds), at, expires (seconds), expires_at, unique_key, tags,
-- headers, options; keeps_priority: whether the enqueue itself named it, so that what an operator set of the type does not
-- count; channel: where to tell runners that asked for it (NULL: nowhere); now steers the clock in tests.
-- Result: id, whether it is ready. The flag `wake` is the second until which somebody wants notice, of what is due by then.
INSERT INTO {schema}.task (
    id, queue, type, status, priority, payload, maturity_at, expires_at, unique_key, tags, headers, options
)
SELECT
    %(id)s, %(queue)s, %(type)s,
    CASE WHEN instant.maturity_at <= instant.now THEN 'ready' ELSE 'scheduled' END::{schema}.status,
    CASE
        WHEN %(keeps_priority)s::boolean THEN %(priority)s::smallint
        ELSE coalesce(
            (SELECT (overrides -> 'priority')::smallint FROM {schema}.task_type WHERE name = %(type)s::text), %(priority)s::smallint
        )
    END,
    %(payload)s::jsonb, instant.maturity_at,
    coalesce(%(expires_at)s::timestamptz, instant.now + make_interval(secs => %(expires)s::float8)),
    %(unique_key)s::bytea, %(tags)s::text[], %(headers)s::jsonb, %(options)s::jsonb
FROM (
    SELECT
        clock.now,
        coalesce(%(at)s::timestamptz, clock.now + make_interval(secs => %(delay)s::float8), clock.now) AS maturity_at
    FROM (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) AS clock
) AS instant
ON CONFLICT DO NOTHING
RETURNING id, status = 'ready' AS is_ready,
    CASE
        -- A full notification queue would fail the commit.
        WHEN maturity_at <= (
            SELECT to_timestamp(last_value) FROM {schema}.wake
            WHERE %(channel)s::text IS NOT NULL AND last_value > extract(epoch FROM clock_timestamp())
        ) AND pg_notification_queue_usage() < 0.5
        THEN pg_notify(%(channel)s::text, queue)
    END AS told
