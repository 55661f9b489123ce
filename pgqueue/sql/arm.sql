-- Ask for notice of every task that is due within so many seconds, for as long. The flag moves only forward, and only where less
-- than `enough` is left, so that a sleeping fleet does not write all the time. What was enqueued before has sent no notice: look
-- once more after this. Parameters: seconds, enough (seconds). Result: the seconds that are left.
SELECT
    CASE
        WHEN wake.last_value - clock.epoch < %(enough)s::float8
        THEN setval(wake.tableoid::regclass, ceil(clock.epoch + %(seconds)s::float8)::bigint)
        ELSE wake.last_value
    END - clock.epoch AS seconds_left
FROM {schema}.wake
CROSS JOIN (SELECT extract(epoch FROM clock_timestamp())::float8 AS epoch) AS clock
