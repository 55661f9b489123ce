-- Let go of a named lock, if this claim holds it still; nobody else's is touched. Parameters: name, claim_id.
-- Result: token; no row: it expired, or was released by force.
UPDATE {schema}.named_lock
SET holder = NULL, claim_id = NULL, expires_at = clock_timestamp()
WHERE name = %(name)s::text AND claim_id = %(claim_id)s::uuid AND expires_at > clock_timestamp()
RETURNING token
