-- Take a named lock away from whoever holds it. Parameters: name. Result: what was held, as the columns of a LockRecord; no row: free.
WITH held AS MATERIALIZED (
    SELECT name, holder, token, acquired_at, expires_at FROM {schema}.named_lock
    WHERE name = %(name)s::text AND holder IS NOT NULL AND expires_at > clock_timestamp()
    FOR UPDATE
), freed AS (
    UPDATE {schema}.named_lock
    SET holder = NULL, claim_id = NULL, expires_at = clock_timestamp()
    FROM held
    WHERE named_lock.name = held.name
)
SELECT name, holder, token, acquired_at, expires_at FROM held
