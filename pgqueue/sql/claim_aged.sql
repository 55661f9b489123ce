-- Claim ready tasks of one queue that ages, under a lease: by maturity_at − priority × aging, the smaller first (aging.py).
-- No index has this order, but each priority's part of the ready index has it. So: which priorities there are, one probe each;
-- of each the first candidates from its watermark on, unlocked; merged, and then locked in that order. The differences are
-- intervals: a timestamp would overflow. Nobody's row is locked that is not taken; what others hold is skipped, so more
-- candidates are looked at (`reach`) than are wanted. A candidate is looked up by its whole key: with the id alone a planner
-- without statistics takes the ready index all the same, and walks the queue's part of it each time.
-- Parameters and result: as claim.sql; also aging, reach (candidates), priorities (how many are looked at, at most).
WITH RECURSIVE stretch (priority, maturity_at, id, last_priority) AS (
    SELECT segment.first_priority, segment.maturity_at, segment.id, segment.last_priority
    FROM unnest(
        %(first_priorities)s::smallint[], %(maturities)s::timestamptz[], %(ids)s::uuid[], %(last_priorities)s::smallint[]
    ) AS segment (first_priority, maturity_at, id, last_priority)
    UNION ALL
    SELECT following.priority, '-infinity'::timestamptz, '00000000-0000-0000-0000-000000000000'::uuid, stretch.last_priority
    FROM stretch
    CROSS JOIN LATERAL (
        SELECT -ready.priority AS priority
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready'
            AND -ready.priority > stretch.priority AND -ready.priority <= stretch.last_priority
        ORDER BY -ready.priority, ready.maturity_at, ready.id
        LIMIT 1
    ) AS following
), candidate AS MATERIALIZED (
    SELECT -ready.priority AS priority, ready.maturity_at, ready.id
    FROM (SELECT stretch.* FROM stretch LIMIT %(priorities)s::bigint) AS stretch
    CROSS JOIN LATERAL (
        SELECT ready.id, ready.priority, ready.maturity_at
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready' AND ready.type = ANY(%(types)s::text[])
            AND -ready.priority = stretch.priority AND (ready.maturity_at, ready.id) >= (stretch.maturity_at, stretch.id)
        ORDER BY ready.maturity_at, ready.id
        LIMIT %(reach)s::bigint
    ) AS ready
    ORDER BY ready.maturity_at - timestamptz 'epoch' - ready.priority * %(aging)s::interval, -ready.priority, ready.id
    LIMIT %(reach)s::bigint
)
UPDATE {schema}.task
SET status = 'running', attempt = attempt + 1, runner_id = %(runner_id)s::uuid, claim_id = %(claim_id)s::uuid,
    claimed_at = now(), updated_at = now()
WHERE queue = %(queue)s::text AND id = ANY(ARRAY(
    SELECT picked.id
    FROM candidate
    CROSS JOIN LATERAL (
        SELECT ready.id
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready'
            AND -ready.priority = candidate.priority AND ready.maturity_at = candidate.maturity_at AND ready.id = candidate.id
        FOR UPDATE SKIP LOCKED
    ) AS picked
    LIMIT %(limit)s::bigint
))
RETURNING
    id::text, type, attempt, priority, maturity_at, claimed_at, payload::text, options::text, expires_at <= now() AS is_expired,
    headers::text
