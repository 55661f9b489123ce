-- A page of the schedules that are due, oldest first.
-- Parameters: after_at, after_id (the last of the page before; NULL: from the start), now (that of the first page; NULL: the
-- database's clock), limit (0: only look ahead). Result: now, seconds until the next one is due that was not due at `now` (below
-- zero if it is by now; NULL: there is none; what stays behind waits for somebody or cannot be fired), then id, app, name, type, frequency (seconds, as text: an interval put in by hand may be
-- longer than Python's), cron, rrule, timezone, missed, next_run_at, start_at, end_at, max_runs, fired_count; one row of nulls beside now when nothing is due.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now)
SELECT
    clock.now,
    (
        SELECT extract(epoch FROM next_run_at - clock_timestamp())::float8
        FROM {schema}.schedule
        WHERE enabled AND paused_at IS NULL AND next_run_at > (SELECT now FROM clock)
        ORDER BY next_run_at
        LIMIT 1
    ) AS next_seconds,
    due.id, due.app, due.name, due.type, due.frequency, due.cron, due.rrule, due.timezone, due.missed, due.next_run_at,
    due.start_at, due.end_at, due.max_runs, due.fired_count
FROM clock
LEFT JOIN (
    SELECT
        id, app, name, type, extract(epoch FROM frequency)::text AS frequency, cron, rrule, timezone, missed, next_run_at,
        start_at, end_at, max_runs, fired_count
    FROM {schema}.schedule
    WHERE enabled AND paused_at IS NULL
        AND next_run_at <= (SELECT now FROM clock)
        AND (%(after_id)s::uuid IS NULL OR (next_run_at, id) > (%(after_at)s::timestamptz, %(after_id)s::uuid))
    ORDER BY next_run_at, id
    LIMIT %(limit)s::bigint
) AS due ON true
ORDER BY due.next_run_at, due.id
