-- Take tasks that have ended, and are locked by this transaction, out of `task`. Parameters: queue, ids.
DELETE FROM {schema}.task WHERE queue = %(queue)s::text AND id = ANY(%(ids)s::uuid[]) AND status = 'ready'
