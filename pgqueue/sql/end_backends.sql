-- End the server processes of a runner that is gone: what they lock is free then. Its connections carry its id in their name.
-- Only those of the same user: others may not be ended without a privilege. Parameters: runner_id. Result: pid.
-- Materialized: as one of several conditions the call would be made in the order of estimated costs, for processes of others too.
WITH backend AS MATERIALIZED (
    SELECT pid
    FROM pg_catalog.pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
        AND application_name LIKE 'pgqueue %%' || (%(runner_id)s::uuid)::text
)
SELECT pid FROM backend WHERE pg_terminate_backend(pid)
