-- Disable what an app no longer declares; schedules made at runtime and those of other apps are left alone.
-- Parameters: app, names (declared). Result: name.
UPDATE {schema}.schedule
SET enabled = false, next_run_at = NULL, ended_at = clock_timestamp(), ended_reason = 'no longer declared',
    updated_at = clock_timestamp()
WHERE app = %(app)s AND source = 'code' AND enabled AND name <> ALL(%(names)s::text[])
RETURNING name
