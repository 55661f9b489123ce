-- Insert a schedule made at run time. No row back: one of that name was made meanwhile.
-- Parameters: app, name, type, queue, payload, options, frequency, cron, rrule, timezone, missed, start_at, end_at, max_runs,
-- fingerprint, next_run_at. Result: a row of schedule_list.sql.
INSERT INTO {schema}.schedule (
    app, name, source, type, queue, payload, options, frequency, cron, rrule, timezone, missed, start_at, end_at, max_runs,
    fingerprint, next_run_at
)
VALUES (
    %(app)s, %(name)s, 'runtime', %(type)s, %(queue)s, %(payload)s::jsonb, %(options)s::jsonb, %(frequency)s::interval,
    %(cron)s::text, %(rrule)s::text, %(timezone)s, %(missed)s, %(start_at)s::timestamptz, %(end_at)s::timestamptz,
    %(max_runs)s::bigint, %(fingerprint)s, %(next_run_at)s::timestamptz
)
ON CONFLICT (app, name) DO NOTHING
RETURNING
    id, app, name, source, type, queue, payload::text, options::text, extract(epoch FROM frequency)::text, cron, rrule, timezone,
    missed, start_at, end_at, max_runs, fingerprint, enabled, paused_at, ended_at, ended_reason, next_run_at, last_run_at,
    fired_count, skipped_count, triggered_count, created_at, updated_at
