-- Write down that somebody triggered a schedule; its slots and their counts are not touched. In the transaction of the enqueue.
-- Parameters: id, slot_at, task_id (NULL: its unique task is unfinished). Result: none.
WITH counted AS (
    UPDATE {schema}.schedule
    SET triggered_count = triggered_count + 1
    WHERE id = %(id)s::uuid
    RETURNING id
)
INSERT INTO {schema}.schedule_slot (schedule_id, slot_at, is_trigger, outcome, reason, task_id)
SELECT
    id, %(slot_at)s::timestamptz, true, CASE WHEN %(task_id)s::uuid IS NULL THEN 'skipped' ELSE 'fired' END,
    CASE WHEN %(task_id)s::uuid IS NULL THEN 'unfinished task' ELSE 'triggered' END, %(task_id)s::uuid
FROM counted
