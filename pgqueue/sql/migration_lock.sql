-- Take the right to migrate a schema until this transaction ends, or learn at once that somebody else has it.
-- Parameters: schema, its plain name. A transaction-level lock, so that it is right behind a transaction pooler too.
-- Result: one row; false if it is taken.
SELECT pg_try_advisory_xact_lock(hashtextextended('pgqueue migrate ' || %(schema)s, 0)) AS taken
