-- Change a queue's settings, and make its row if there is none. Waits for another change of the same row.
-- Parameters: queue; sets_aging (whether it is to be changed), aging. Result: as queues.sql.
INSERT INTO {schema}.queue AS known (name, aging)
VALUES (%(queue)s::text, %(aging)s::interval)
ON CONFLICT (name) DO UPDATE
SET aging = CASE WHEN %(sets_aging)s::boolean THEN excluded.aging ELSE known.aging END, updated_at = clock_timestamp()
RETURNING
    known.name AS queue,
    CASE WHEN known.aging > interval '3650 days' THEN interval '3650 days' ELSE known.aging END AS aging,
    known.paused_at, EXISTS (SELECT FROM {schema}.task WHERE task.queue = known.name) AS has_tasks
