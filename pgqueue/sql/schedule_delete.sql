-- Delete a schedule, unless code declares it: its next start would bring it back. Its slots stay for their retention.
-- Parameters: app, name. Result: id.
DELETE FROM {schema}.schedule
WHERE app = %(app)s AND name = %(name)s AND (source = 'runtime' OR NOT enabled)
RETURNING id
