-- Insert many tasks in the order given, which must be the order of their unique keys: two callers that take the same keys
-- in opposite orders would deadlock. Rows that come back were inserted; the others met the holder of their key.
-- Parameters: arrays of one length; delay in seconds; keeps and channel as in enqueue.sql. now steers the clock in tests. Result: id.
-- PostgreSQL sends equal notifications of one transaction once, so there is one for each queue.
WITH clock AS MATERIALIZED (
    SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now
), overridden AS MATERIALIZED (
    SELECT name AS type, (overrides -> 'priority')::smallint AS priority FROM {schema}.task_type WHERE overrides ? 'priority'
)
INSERT INTO {schema}.task (
    id, queue, type, status, priority, payload, maturity_at, expires_at, unique_key, tags, headers, options
)
SELECT
    request.id, request.queue, request.type,
    CASE WHEN instant.maturity_at <= clock.now THEN 'ready' ELSE 'scheduled' END::{schema}.status,
    CASE WHEN request.keeps_priority THEN request.priority ELSE coalesce(overridden.priority, request.priority) END,
    request.payload::jsonb, instant.maturity_at,
    coalesce(request.expires_at, clock.now + make_interval(secs => request.expires)),
    request.unique_key, request.tags::text[], request.headers::jsonb, request.options::jsonb
FROM clock
CROSS JOIN unnest(
    %(ids)s::uuid[], %(queues)s::text[], %(types)s::text[], %(priorities)s::smallint[], %(payloads)s::text[],
    %(delays)s::float8[], %(ats)s::timestamptz[], %(expires)s::float8[], %(expires_ats)s::timestamptz[],
    %(unique_keys)s::bytea[], %(tags)s::text[], %(headers)s::text[], %(options)s::text[],
    %(keep_priorities)s::boolean[]
) WITH ORDINALITY AS request (
    id, queue, type, priority, payload, delay, at, expires, expires_at, unique_key, tags, headers, options,
    keeps_priority, position
)
LEFT JOIN overridden ON overridden.type = request.type
CROSS JOIN LATERAL (
    SELECT coalesce(request.at, clock.now + make_interval(secs => request.delay), clock.now) AS maturity_at
) AS instant
ORDER BY request.position
ON CONFLICT DO NOTHING
RETURNING id,
    CASE
        WHEN maturity_at <= (
            SELECT to_timestamp(last_value) FROM {schema}.wake
            WHERE %(channel)s::text IS NOT NULL AND last_value > extract(epoch FROM clock_timestamp())
        ) AND pg_notification_queue_usage() < 0.5
        THEN pg_notify(%(channel)s::text, queue)
    END AS told
