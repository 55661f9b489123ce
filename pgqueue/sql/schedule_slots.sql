-- What became of a schedule's slots, the newest first. Parameters: id, limit. Result: slot_at, outcome, reason, task_id, is_trigger,
-- decided_at.
SELECT slot_at, outcome, reason, task_id, is_trigger, decided_at
FROM {schema}.schedule_slot
WHERE schedule_id = %(id)s::uuid
ORDER BY slot_at DESC, is_trigger DESC
LIMIT %(limit)s::bigint
