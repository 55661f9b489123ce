-- One schedule, locked until the transaction ends: schedulers pass it by meanwhile. Waits for a firing that is under way.
-- Parameters: app, name. Result: a row of schedule_list.sql, or none.
SELECT
    id, app, name, source, type, queue, payload::text, options::text, extract(epoch FROM frequency)::text, cron, rrule, timezone,
    missed, start_at, end_at, max_runs, fingerprint, enabled, paused_at, ended_at, ended_reason, next_run_at, last_run_at,
    fired_count, skipped_count, triggered_count, created_at, updated_at
FROM {schema}.schedule
WHERE app = %(app)s AND name = %(name)s
FOR UPDATE
