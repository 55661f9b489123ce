-- Take tasks that have ended, and are locked by this transaction, out of `task`. Parameters: queue, ids.
-- The condition on status is wrapped: as such it would offer the planner the index of ready tasks, which without statistics it
-- walks from end to end instead of looking the ids up.
DELETE FROM {schema}.task WHERE queue = %(queue)s::text AND id = ANY(%(ids)s::uuid[]) AND coalesce(status = 'ready', false)
