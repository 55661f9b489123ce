-- The database's clock: the only one whose instants are compared across machines. Result: now.
SELECT clock_timestamp() AS now
