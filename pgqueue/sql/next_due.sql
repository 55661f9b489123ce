-- How long until the next scheduled task of a queue is due. Parameters: queue. Result: seconds, or no row.
SELECT extract(epoch FROM maturity_at - clock_timestamp())::float8 AS seconds
FROM {schema}.task
WHERE queue = %(queue)s::text AND status = 'scheduled'
ORDER BY maturity_at, id
LIMIT 1
