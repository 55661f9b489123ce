-- Where claims of one queue meet ready tasks that are not for this runner: for each priority that begins with such a one, how far
-- the watermark may be moved: to the first task of its types, or behind the last one walked. Also for a priority that nobody has
-- claimed yet, beneath another of its segment: claims of a queue that ages look at each. Walks so many ready tasks of a priority
-- at most. Locks nothing. Parameters: queue, types, limit, priorities (how many are looked at, at most); the segments as in
-- claim.sql: first_priorities (negated), maturities, ids, last_priorities.
-- Result: priority, maturity_at, id, walked_count, is_known (it is of its types).
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
)
SELECT first.priority, passed.maturity_at, passed.id::text, passed.walked_count, passed.is_known
FROM (SELECT stretch.* FROM stretch LIMIT %(priorities)s::bigint) AS stretch
CROSS JOIN LATERAL (
    SELECT ready.priority, ready.maturity_at, ready.id, ready.type
    FROM {schema}.task AS ready
    WHERE ready.queue = %(queue)s::text AND ready.status = 'ready'
        AND -ready.priority = stretch.priority AND (ready.maturity_at, ready.id) >= (stretch.maturity_at, stretch.id)
    ORDER BY ready.maturity_at, ready.id
    LIMIT 1
) AS first
CROSS JOIN LATERAL (
    WITH walked AS MATERIALIZED (
        SELECT ready.maturity_at, ready.id, ready.type = ANY(%(types)s::text[]) AS is_known
        FROM {schema}.task AS ready
        WHERE ready.queue = %(queue)s::text AND ready.status = 'ready' AND -ready.priority = -first.priority
            AND (ready.maturity_at, ready.id) >= (first.maturity_at, first.id)
        ORDER BY ready.maturity_at, ready.id
        LIMIT %(limit)s::bigint
    )
    (
        SELECT walked.maturity_at, walked.id, true AS is_known, (SELECT count(*) FROM walked) AS walked_count
        FROM walked
        WHERE walked.is_known
        ORDER BY walked.maturity_at, walked.id
        LIMIT 1
    )
    UNION ALL
    (
        SELECT walked.maturity_at, walked.id, false AS is_known, (SELECT count(*) FROM walked) AS walked_count
        FROM walked
        ORDER BY walked.maturity_at DESC, walked.id DESC
        LIMIT 1
    )
    ORDER BY is_known DESC
    LIMIT 1
) AS passed
WHERE first.type <> ALL(%(types)s::text[])
