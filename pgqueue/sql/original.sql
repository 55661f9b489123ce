-- What a copy is made of: a task that has ended. Options are kept of dead and deleted ones only. Parameters: id.
-- Result: queue, type, priority, payload, tags, headers, options.
SELECT queue, type, priority, payload::text, tags, headers::text, options::text
FROM {schema}.dead_task WHERE id = %(id)s::uuid
UNION ALL
SELECT queue, type, priority, payload::text, tags, headers::text, nullif(lineage #> '{deleted,options}', 'null')::text
FROM {schema}.history WHERE id = %(id)s::uuid
