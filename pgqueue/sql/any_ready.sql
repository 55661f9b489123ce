-- Whether anything of one queue is ready, of whatever type. Walks the dead entries at the head. Parameters: queue. Result: is_ready.
SELECT EXISTS (SELECT FROM {schema}.task WHERE queue = %(queue)s::text AND status = 'ready') AS is_ready
