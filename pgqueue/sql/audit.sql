-- Write down who did what. The same id again replaces the details: a change made in batches is one line whose count grows.
-- Parameters: id (NULL: a fresh one), actor, door, action, kind, name, details. Result: none.
INSERT INTO {schema}.audit (id, actor, door, action, kind, name, details)
VALUES (
    coalesce(%(id)s::uuid, {schema}.new_id()), %(actor)s::text, %(door)s::text, %(action)s::text, %(kind)s::text, %(name)s::text,
    %(details)s::jsonb
)
ON CONFLICT (id) DO UPDATE SET details = excluded.details
