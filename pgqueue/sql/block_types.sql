-- Block ready tasks of types that are disabled, or that no live runner of their queue knows, along one stretch behind a watermark.
-- Walks so many ready tasks at most, of any type; those that others hold are skipped. A type spelt differently gets its canonical name, and where a
-- runner knows it by that, its task stays ready. By ctid, a plan that no table size and no statistics can turn.
-- Parameters: queue, delay (seconds that one of an unknown type must have been ready), limit; the stretch: priority (negated), lower_maturity,
-- lower_id (it included), upper_maturity, upper_id (it not).
-- Result: one row per type and way (NULL where there was none): type; unknown or disabled, where it was blocked for that, or ready;
-- count of what was moved; and in each the last key walked: maturity_at, id, and walked_count.
WITH disabled AS MATERIALIZED (
    SELECT known.name, {schema}.fold(known.name) AS folded FROM {schema}.task_type AS known WHERE known.disabled_at IS NOT NULL
), live AS MATERIALIZED (
    SELECT DISTINCT known.type AS name, {schema}.fold(known.type) AS folded
    FROM {schema}.runner
    CROSS JOIN LATERAL unnest(runner.types) AS known (type)
    WHERE runner.kind = 'runner' AND (runner.queues IS NULL OR %(queue)s::text = ANY(runner.queues))
), walked AS MATERIALIZED (
    SELECT ready.ctid, ready.id, ready.type, ready.maturity_at, ready.updated_at
    FROM {schema}.task AS ready
    WHERE ready.queue = %(queue)s::text AND ready.status = 'ready' AND -ready.priority = %(priority)s::smallint
        AND (ready.maturity_at, ready.id) >= (%(lower_maturity)s::timestamptz, %(lower_id)s::uuid)
        AND (ready.maturity_at, ready.id) < (%(upper_maturity)s::timestamptz, %(upper_id)s::uuid)
    ORDER BY ready.maturity_at, ready.id
    LIMIT %(limit)s::bigint
), met AS MATERIALIZED (
    SELECT
        foreign_type.name,
        coalesce(
            (SELECT min(live.name) FROM live WHERE live.folded = {schema}.fold(foreign_type.name)),
            (SELECT known.name FROM {schema}.task_type AS known WHERE {schema}.fold(known.name) = {schema}.fold(foreign_type.name)),
            foreign_type.name
        ) AS canonical,
        EXISTS (SELECT FROM live WHERE live.folded = {schema}.fold(foreign_type.name)) AS is_live,
        EXISTS (SELECT FROM disabled WHERE disabled.folded = {schema}.fold(foreign_type.name)) AS is_disabled
    FROM (
        SELECT DISTINCT type AS name
        FROM walked
        WHERE type NOT IN (SELECT name FROM live) OR type IN (SELECT name FROM disabled)
    ) AS foreign_type
), held AS MATERIALIZED (
    SELECT task.ctid
    FROM {schema}.task
    WHERE task.status = 'ready' AND task.ctid = ANY(ARRAY(
        SELECT walked.ctid
        FROM walked
        JOIN met ON met.name = walked.type
        WHERE met.is_live OR met.is_disabled
            OR greatest(walked.maturity_at, walked.updated_at) <= clock_timestamp() - make_interval(secs => %(delay)s::float8)
    ))
    FOR UPDATE OF task SKIP LOCKED
), moved AS (
    UPDATE {schema}.task AS task
    SET type = (SELECT met.canonical FROM met WHERE met.name = task.type),
        status = CASE
            WHEN (SELECT met.is_live AND NOT met.is_disabled FROM met WHERE met.name = task.type) THEN 'ready'
            ELSE 'blocked'
        END::{schema}.status,
        blocked_on = CASE
            WHEN (SELECT met.is_disabled FROM met WHERE met.name = task.type) THEN 'disabled'
            WHEN (SELECT met.is_live FROM met WHERE met.name = task.type) THEN NULL
            ELSE 'type'
        END,
        updated_at = clock_timestamp()
    WHERE task.ctid = ANY(ARRAY(SELECT held.ctid FROM held))
    RETURNING
        task.type,
        CASE task.blocked_on WHEN 'type' THEN 'unknown' WHEN 'disabled' THEN 'disabled' ELSE 'ready' END AS way
), summary AS (
    SELECT moved.type, moved.way, count(*) AS moved_count FROM moved GROUP BY moved.type, moved.way
)
SELECT
    summary.type, summary.way, coalesce(summary.moved_count, 0) AS moved_count, final.maturity_at, final.id::text,
    (SELECT count(*) FROM walked) AS walked_count
FROM (SELECT walked.maturity_at, walked.id FROM walked ORDER BY walked.maturity_at DESC, walked.id DESC LIMIT 1) AS final
LEFT JOIN summary ON true
ORDER BY summary.type, summary.way
