-- Make a schedule another one, of the same id; what it has fired so far, and a pause, stay.
-- Parameters: id, type, queue, payload (NULL: it stays), options, frequency, cron, rrule, timezone, missed, start_at, end_at, max_runs, fingerprint,
-- next_run_at, enabled, ended_at, ended_reason. Result: a row of schedule_list.sql.
UPDATE {schema}.schedule
SET type = %(type)s, queue = %(queue)s, payload = coalesce(%(payload)s::jsonb, payload), options = %(options)s::jsonb,
    frequency = %(frequency)s::interval, cron = %(cron)s::text, rrule = %(rrule)s::text, timezone = %(timezone)s,
    missed = %(missed)s, start_at = %(start_at)s::timestamptz, end_at = %(end_at)s::timestamptz, max_runs = %(max_runs)s::bigint,
    fingerprint = %(fingerprint)s, next_run_at = %(next_run_at)s::timestamptz, enabled = %(enabled)s,
    ended_at = %(ended_at)s::timestamptz, ended_reason = %(ended_reason)s::text, updated_at = clock_timestamp()
WHERE id = %(id)s::uuid
RETURNING
    id, app, name, source, type, queue, payload::text, options::text, extract(epoch FROM frequency)::text, cron, rrule, timezone,
    missed, start_at, end_at, max_runs, fingerprint, enabled, paused_at, ended_at, ended_reason, next_run_at, last_run_at,
    fired_count, skipped_count, triggered_count, created_at, updated_at
