-- Pause a schedule, or let it go on. One that is paused keeps the instant since when. Parameters: app, name, pauses.
-- Result: a row of schedule_list.sql, or none.
UPDATE {schema}.schedule
SET paused_at = CASE WHEN %(pauses)s THEN coalesce(paused_at, clock_timestamp()) END,
    updated_at = CASE WHEN (paused_at IS NOT NULL) = %(pauses)s THEN updated_at ELSE clock_timestamp() END
WHERE app = %(app)s AND name = %(name)s
RETURNING
    id, app, name, source, type, queue, payload::text, options::text, extract(epoch FROM frequency)::text, cron, rrule, timezone,
    missed, start_at, end_at, max_runs, fingerprint, enabled, paused_at, ended_at, ended_reason, next_run_at, last_run_at,
    fired_count, skipped_count, triggered_count, created_at, updated_at
