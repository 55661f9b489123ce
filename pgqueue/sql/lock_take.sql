-- Take a named lock, if it is free: released, or expired by the database's clock; or held by this very claim, when its answer was
-- lost. Waits for another change of the same row, and then looks again. A held one is only read.
-- The token is drawn once the row has been read, so it is larger than the one in it, and larger than every other where the sequence
-- was left behind (as logical replication leaves it). Parameters: name, holder, claim_id, ttl.
-- Result: token (NULL: held by another), the holder, and for how many seconds still. Not above zero and no token: it came free, or
-- was taken, while we looked (ask again). No row: nobody has asked for this name yet.
WITH taken AS (
    UPDATE {schema}.named_lock
    SET holder = %(holder)s::text, claim_id = %(claim_id)s::uuid, acquired_at = clock_timestamp(),
        expires_at = clock_timestamp() + %(ttl)s::interval,
        token = greatest(token + 1, nextval((SELECT tableoid::regclass FROM {schema}.lock_token)))
    WHERE name = %(name)s::text
        AND (holder IS NULL OR expires_at <= clock_timestamp() OR claim_id = %(claim_id)s::uuid)
    RETURNING token, holder, expires_at
)
SELECT token, holder, extract(epoch FROM expires_at - clock_timestamp())::float8 AS left_seconds FROM taken
UNION ALL
SELECT
    NULL, holder,
    CASE WHEN holder IS NULL THEN 0 ELSE extract(epoch FROM expires_at - clock_timestamp())::float8 END
FROM {schema}.named_lock
WHERE name = %(name)s::text AND NOT EXISTS (SELECT FROM taken)
