-- How long until the next schedule is due that was not due yet at `now`. What was due then and still is waits for somebody else,
-- or cannot be fired: the next poll looks at it. Parameters: now. Result: seconds, below zero if it is due already; or no row.
SELECT extract(epoch FROM next_run_at - clock_timestamp())::float8 AS seconds
FROM {schema}.schedule
WHERE enabled AND paused_at IS NULL AND rrule IS NULL AND next_run_at > %(now)s::timestamptz
ORDER BY next_run_at
LIMIT 1
