-- A page of schedules, by app and name. Parameters: app, type (NULL: any), after_app, after_name (the last of the page before;
-- NULL: from the start), limit. Result: id, app, name, source, type, queue, payload and options (JSON text), frequency (seconds, as
-- text: an interval put in by hand may be longer than Python's), cron, rrule, timezone, missed, start_at, end_at, max_runs,
-- fingerprint, enabled, paused_at, ended_at, ended_reason, next_run_at, last_run_at, fired_count, skipped_count, triggered_count,
-- created_at, updated_at.
SELECT
    id, app, name, source, type, queue, payload::text, options::text, extract(epoch FROM frequency)::text, cron, rrule, timezone,
    missed, start_at, end_at, max_runs, fingerprint, enabled, paused_at, ended_at, ended_reason, next_run_at, last_run_at,
    fired_count, skipped_count, triggered_count, created_at, updated_at
FROM {schema}.schedule
WHERE (%(app)s::text IS NULL OR app = %(app)s)
    AND (%(type)s::text IS NULL OR type = %(type)s)
    AND (%(after_app)s::text IS NULL OR (app, name) > (%(after_app)s::text, %(after_name)s::text))
ORDER BY app, name
LIMIT %(limit)s::bigint
