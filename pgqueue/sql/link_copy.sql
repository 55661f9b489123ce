-- Note on a copy what it was copied from, and on the original, if it is still stored, that there is a copy: the last 100. Doing it
-- twice is doing it once. In the transaction that inserted the copy. Waits for the original's row.
-- Parameters: queue, id (of the copy); original_queue, original_id.
WITH copy AS (
    UPDATE {schema}.task
    SET lineage = coalesce(lineage, '{}') || jsonb_build_object(
        'copied_from', jsonb_build_object('id', %(original_id)s::uuid, 'queue', %(original_queue)s::text)
    )
    WHERE queue = %(queue)s::text AND id = %(id)s::uuid
), dead AS (
    UPDATE {schema}.dead_task
    SET lineage = coalesce(lineage, '{}') || jsonb_build_object(
        'copies',
        jsonb_path_query_array(coalesce(lineage -> 'copies', '[]') - %(id)s::uuid::text, '$[last - 98 to last]')
        || to_jsonb(%(id)s::uuid::text)
    )
    WHERE queue = %(original_queue)s::text AND id = %(original_id)s::uuid
)
UPDATE {schema}.history
SET lineage = coalesce(lineage, '{}') || jsonb_build_object(
    'copies',
    jsonb_path_query_array(coalesce(lineage -> 'copies', '[]') - %(id)s::uuid::text, '$[last - 98 to last]')
    || to_jsonb(%(id)s::uuid::text)
)
WHERE queue = %(original_queue)s::text AND id = %(original_id)s::uuid
