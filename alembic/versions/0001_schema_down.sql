-- Undoes 0001_schema.sql. {schema} is the only placeholder: an escaped identifier.

DROP TABLE
    {schema}.task, {schema}.dead_task, {schema}.history, {schema}.attempt, {schema}.task_log, {schema}.idempotency,
    {schema}.schedule, {schema}.schedule_slot, {schema}.runner, {schema}.queue, {schema}.task_type,
    {schema}.limit_slot, {schema}.rate_grant, {schema}.named_lock, {schema}.audit;
DROP FUNCTION {schema}.new_id(), {schema}.fold(text);
DROP SEQUENCE {schema}.wake, {schema}.lock_token;
DROP TYPE {schema}.status;
