-- Hold a named lock for so long from now, if this claim holds it still. Parameters: name, claim_id, ttl.
-- Result: token; no row: it expired, or was released by force.
UPDATE {schema}.named_lock
SET expires_at = clock_timestamp() + %(ttl)s::interval
WHERE name = %(name)s::text AND claim_id = %(claim_id)s::uuid AND expires_at > clock_timestamp()
RETURNING token
