-- Write down a schedule that is declared in code. One that is there as declared is untouched, so that a restart neither loses nor
-- repeats a slot. When it recurs differently, or was disabled, its next run is next_run_at, for a frequency not before a whole
-- frequency after its last. A pause stays. A schedule of that name made at runtime is left alone.
-- Parameters: app, name, type, queue, frequency, cron, rrule, timezone, missed, payload, options, fingerprint (of the recurrence),
-- next_run_at (NULL: it has no slot any more, for this ended_reason), ended_reason. Result: name, or no row if nothing changed.
INSERT INTO {schema}.schedule AS known (
    app, name, source, type, queue, frequency, cron, rrule, timezone, missed, payload, options, fingerprint, next_run_at,
    enabled, ended_at, ended_reason
)
VALUES (
    %(app)s, %(name)s, 'code', %(type)s, %(queue)s, %(frequency)s::interval, %(cron)s::text, %(rrule)s::text, %(timezone)s,
    %(missed)s, %(payload)s::jsonb, %(options)s::jsonb, %(fingerprint)s, %(next_run_at)s::timestamptz,
    %(next_run_at)s::timestamptz IS NOT NULL, CASE WHEN %(next_run_at)s::timestamptz IS NULL THEN clock_timestamp() END,
    CASE WHEN %(next_run_at)s::timestamptz IS NULL THEN %(ended_reason)s::text END
)
ON CONFLICT (app, name) DO UPDATE
SET type = excluded.type, queue = excluded.queue, frequency = excluded.frequency, cron = excluded.cron, rrule = excluded.rrule,
    timezone = excluded.timezone, missed = excluded.missed, payload = excluded.payload, options = excluded.options,
    fingerprint = excluded.fingerprint, updated_at = clock_timestamp(),
    enabled = excluded.enabled OR (known.enabled AND known.fingerprint = excluded.fingerprint),
    ended_at = CASE WHEN NOT (known.enabled AND known.fingerprint = excluded.fingerprint) THEN excluded.ended_at END,
    ended_reason = CASE WHEN NOT (known.enabled AND known.fingerprint = excluded.fingerprint) THEN excluded.ended_reason END,
    next_run_at = CASE
        -- One that has come to its last slot may still owe it.
        WHEN known.enabled AND known.fingerprint = excluded.fingerprint THEN known.next_run_at
        -- In seconds: adding `1 day` would follow the session's timezone. greatest() passes over the NULL of one that never ran.
        ELSE greatest(
            excluded.next_run_at, known.last_run_at + make_interval(secs => extract(epoch FROM excluded.frequency)::float8)
        )
    END
WHERE known.source = 'code' AND (
    known.enabled, known.fingerprint, known.type, known.queue, known.missed, known.payload, known.options
) IS DISTINCT FROM (
    excluded.enabled OR known.enabled, excluded.fingerprint, excluded.type, excluded.queue, excluded.missed, excluded.payload,
    excluded.options
)
RETURNING name
