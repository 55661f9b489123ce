-- Which of this runner's tasks somebody asked to cancel. Parameters: runner_id. Result: id, claim_id.
SELECT id::text, claim_id::text FROM {schema}.task
WHERE runner_id = %(runner_id)s AND status = 'running' AND cancel_requested_at IS NOT NULL
