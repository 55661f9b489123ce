-- Give back running rows of this very runner whose claim it does not hold: the reply to their claim was lost. Older than the
-- deadline of a statement, so that no claim still under way is meant. A suspect waits to run alone again; the new claim
-- is as in rescue.sql. Parameters: runner_id, claim_ids (those it holds), deadline (seconds). Result: queue, id.
UPDATE {schema}.task
SET status = CASE WHEN crashes >= 2 THEN 'blocked' ELSE 'ready' END::{schema}.status,
    blocked_on = CASE WHEN crashes >= 2 THEN 'suspect' END, attempt = greatest(attempt - 1, 0), runner_id = NULL,
    claim_id = gen_random_uuid(), updated_at = clock_timestamp()
WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {schema}.task
    WHERE runner_id = %(runner_id)s AND status = 'running' AND claim_id <> ALL(%(claim_ids)s::uuid[])
        AND claimed_at < clock_timestamp() - make_interval(secs => %(deadline)s::float8)
    FOR UPDATE SKIP LOCKED
))
RETURNING queue, id::text
