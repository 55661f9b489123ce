-- The named locks that are held, by name. Parameters: after (a name, exclusive; NULL: from the first), limit.
-- Result: the columns of a LockRecord.
SELECT name, holder, token, acquired_at, expires_at FROM {schema}.named_lock
WHERE (%(after)s::text IS NULL OR name > %(after)s) AND holder IS NOT NULL AND expires_at > clock_timestamp()
ORDER BY name
LIMIT %(limit)s
