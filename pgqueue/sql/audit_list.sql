-- What was done, newest first. Parameters: kind, name, actor, door, action, since, before (an id, exclusive), each NULL for any; limit.
-- Result: the columns of an AuditRecord. What stands before an id that retention has deleted was deleted with it.
SELECT id, at, actor, door, action, kind || ':' || name AS object, details::text
FROM {schema}.audit
WHERE (%(kind)s::text IS NULL OR kind = %(kind)s)
    AND (%(name)s::text IS NULL OR name = %(name)s)
    AND (%(actor)s::text IS NULL OR actor = %(actor)s)
    AND (%(door)s::text IS NULL OR door = %(door)s)
    AND (%(action)s::text IS NULL OR action = %(action)s)
    AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
    AND (%(before)s::uuid IS NULL OR (at, id) < (SELECT at, id FROM {schema}.audit WHERE id = %(before)s))
ORDER BY at DESC, id DESC
LIMIT %(limit)s
