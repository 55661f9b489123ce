-- Tell runners that asked for it of tasks that came by COPY. Parameters: channel; queues and maturity_ats (arrays of one
-- length: the first instant at which a task of the queue is due). Sends nothing where nobody sleeps (enqueue.sql). Result: told.
SELECT pg_notify(%(channel)s::text, first.queue) AS told
FROM {schema}.wake
CROSS JOIN unnest(%(queues)s::text[], %(maturity_ats)s::timestamptz[]) AS first (queue, maturity_at)
WHERE wake.last_value > extract(epoch FROM clock_timestamp())
    AND first.maturity_at <= to_timestamp(wake.last_value)
    AND pg_notification_queue_usage() < 0.5
