-- Make the row of a lock that nobody holds. Parameters: name. Result: none.
INSERT INTO {schema}.named_lock (name) VALUES (%(name)s::text)
ON CONFLICT (name) DO NOTHING
