-- Decide the slots of one schedule that are due: enqueue their tasks, write down what became of each, advance the schedule.
-- One statement, so one commit: a crash leaves all of it or nothing. It does nothing if the schedule is not as it was read, or if
-- somebody else is at it. A slot that was decided before (next_run_at was set back) is not decided again, nor counted.
-- The insert waits for an open transaction that holds the unique key, for at most lock_timeout: the error then undoes everything.
-- Parameters: id, seen (next_run_at as it was read), next_run_at; fire_ats, task_ids, headers (arrays of one length, oldest slot
-- first); skip_ats (missed slots to write down), unrecorded_count (missed slots that are only counted), lock_timeout (with unit),
-- channel as in enqueue.sql. Result: slot_at, task_id (NULL: skipped), reason.
WITH due AS (
    -- set_config runs before anything is inserted, because every insert takes its rows from here; it ends with the statement.
    SELECT
        id, type, queue, payload, options, clock_timestamp() AS now, set_config('lock_timeout', %(lock_timeout)s::text, true),
        -- What code declares has the priority of its type, and that is what an operator may have set.
        (
            SELECT (known.overrides -> 'priority')::smallint
            FROM {schema}.task_type AS known
            WHERE known.name = schedule.type AND schedule.source = 'code'
        ) AS set_priority
    FROM {schema}.schedule
    WHERE id = %(id)s::uuid AND next_run_at = %(seen)s::timestamptz AND enabled AND paused_at IS NULL
    FOR UPDATE SKIP LOCKED
),
wanted AS (
    SELECT slot.slot_at, slot.task_id, slot.headers
    FROM due
    CROSS JOIN unnest(%(fire_ats)s::timestamptz[], %(task_ids)s::uuid[], %(headers)s::text[]) AS slot (slot_at, task_id, headers)
    WHERE NOT EXISTS (
        SELECT FROM {schema}.schedule_slot AS decided WHERE decided.schedule_id = due.id AND decided.slot_at = slot.slot_at
    )
),
enqueued AS (
    -- It matures now and not at its slot: a key behind the claims' watermarks would be found late, and would jump the queue.
    INSERT INTO {schema}.task (
        id, queue, type, status, priority, payload, maturity_at, expires_at, unique_key, tags, headers, options
    )
    SELECT
        wanted.task_id, due.queue, due.type, 'ready', coalesce(due.set_priority, (due.options ->> 'priority')::smallint, 100),
        due.payload, due.now,
        due.now + make_interval(secs => (due.options ->> 'expires')::float8), decode(due.options ->> 'unique_key', 'hex'),
        CASE WHEN jsonb_typeof(due.options -> 'tags') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(due.options -> 'tags')) END,
        wanted.headers::jsonb, due.options -> 'overrides'
    FROM due
    CROSS JOIN wanted
    ORDER BY wanted.slot_at
    ON CONFLICT DO NOTHING
    RETURNING id
),
decided AS (
    INSERT INTO {schema}.schedule_slot (schedule_id, slot_at, outcome, reason, task_id)
    SELECT
        due.id, wanted.slot_at, CASE WHEN enqueued.id IS NULL THEN 'skipped' ELSE 'fired' END,
        CASE WHEN enqueued.id IS NULL THEN 'unfinished task' END, enqueued.id
    FROM due
    CROSS JOIN wanted
    LEFT JOIN enqueued ON enqueued.id = wanted.task_id
    UNION ALL
    SELECT due.id, missed.slot_at, 'skipped', 'missed', NULL
    FROM due
    CROSS JOIN unnest(%(skip_ats)s::timestamptz[]) AS missed (slot_at)
    ON CONFLICT DO NOTHING
    RETURNING slot_at, task_id, reason
),
tally AS (
    SELECT count(task_id) AS fired_count, count(*) - count(task_id) + %(unrecorded_count)s::bigint AS skipped_count
    FROM decided
),
advanced AS (
    UPDATE {schema}.schedule AS schedule
    SET next_run_at = %(next_run_at)s::timestamptz,
        last_run_at = CASE WHEN tally.fired_count > 0 THEN due.now ELSE schedule.last_run_at END,
        fired_count = schedule.fired_count + tally.fired_count,
        skipped_count = schedule.skipped_count + tally.skipped_count
    FROM due
    CROSS JOIN tally
    WHERE schedule.id = due.id
)
SELECT slot_at, task_id, reason,
    CASE
        WHEN task_id IS NOT NULL
            AND (SELECT last_value > extract(epoch FROM clock_timestamp()) FROM {schema}.wake)
            AND pg_notification_queue_usage() < 0.5
        THEN pg_notify(%(channel)s::text, (SELECT queue FROM due))
    END AS told
FROM decided
ORDER BY slot_at
