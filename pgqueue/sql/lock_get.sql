-- Who holds a named lock. Parameters: name. Result: the columns of a LockRecord; no row: free.
SELECT name, holder, token, acquired_at, expires_at FROM {schema}.named_lock
WHERE name = %(name)s::text AND holder IS NOT NULL AND expires_at > clock_timestamp()
