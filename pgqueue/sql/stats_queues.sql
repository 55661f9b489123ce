-- How long the oldest ready task of each queue has been ready. Walks the index of ready tasks only. Result: queue, seconds.
SELECT queue, extract(epoch FROM clock_timestamp() - min(maturity_at))::float8 AS seconds
FROM {schema}.task
WHERE status = 'ready'
GROUP BY queue
ORDER BY queue
