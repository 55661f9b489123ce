-- Whether a task was triggered, by an attempt whose commit was unknown. Parameters: id (the schedule's), task_id. Result: task_id.
SELECT task_id
FROM {schema}.schedule_slot
WHERE schedule_id = %(id)s::uuid AND is_trigger AND task_id = %(task_id)s::uuid
