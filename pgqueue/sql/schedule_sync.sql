-- Write down a schedule that is declared in code. One that is there as declared is untouched, so that a restart neither loses nor
-- repeats a slot. When it recurs differently, or was disabled, its next run is next_run_at, for a frequency not before a whole
-- frequency after its last. A schedule of that name made at runtime is left alone.
-- Parameters: app, name, type, queue, frequency, cron, timezone, missed, payload, options, fingerprint (of the recurrence),
-- next_run_at. Result: name, or no row if nothing changed.
INSERT INTO {schema}.schedule AS known (
    app, name, source, type, queue, frequency, cron, timezone, missed, payload, options, fingerprint, next_run_at
)
VALUES (
    %(app)s, %(name)s, 'code', %(type)s, %(queue)s, %(frequency)s::interval, %(cron)s::text, %(timezone)s, %(missed)s,
    %(payload)s::jsonb, %(options)s::jsonb, %(fingerprint)s, %(next_run_at)s
)
ON CONFLICT (app, name) DO UPDATE
SET type = excluded.type, queue = excluded.queue, frequency = excluded.frequency, cron = excluded.cron, rrule = NULL,
    timezone = excluded.timezone, missed = excluded.missed, payload = excluded.payload, options = excluded.options,
    fingerprint = excluded.fingerprint, enabled = true, updated_at = clock_timestamp(),
    next_run_at = CASE
        WHEN known.enabled AND known.fingerprint = excluded.fingerprint THEN known.next_run_at
        -- In seconds: adding `1 day` would follow the session's timezone. greatest() passes over the NULL of one that never ran.
        ELSE greatest(
            excluded.next_run_at, known.last_run_at + make_interval(secs => extract(epoch FROM excluded.frequency)::float8)
        )
    END
WHERE known.source = 'code' AND (
    known.enabled, known.fingerprint, known.type, known.queue, known.missed, known.payload, known.options
) IS DISTINCT FROM (
    true, excluded.fingerprint, excluded.type, excluded.queue, excluded.missed, excluded.payload, excluded.options
)
RETURNING name
