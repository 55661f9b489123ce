-- Bound how long this transaction waits for a row or a key that another holds. Parameters: wait (a length of time such as 5s).
SELECT set_config('lock_timeout', %(wait)s::text, true)
