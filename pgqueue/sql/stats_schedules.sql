-- The recurring definitions that are in force, the next one due first. Parameters: limit. Result: app, name, type, queue, frequency,
-- cron, rrule, timezone, next_run_at, last_run_at, fired_count, skipped_count, is_paused.
SELECT
    app, name, type, queue, frequency, cron, rrule, timezone, next_run_at, last_run_at, fired_count, skipped_count,
    paused_at IS NOT NULL AS is_paused
FROM {schema}.schedule
WHERE enabled
ORDER BY next_run_at NULLS LAST, app, name
LIMIT %(limit)s
