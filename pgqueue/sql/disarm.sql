-- Ask for no more notice: who was told is at work. Others that sleep were told as well, and ask again. Result: one row if it was set.
SELECT setval(wake.tableoid::regclass, 0) AS flag
FROM {schema}.wake
WHERE wake.last_value > extract(epoch FROM clock_timestamp())
