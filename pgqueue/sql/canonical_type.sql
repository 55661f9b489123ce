-- A task type's name as it is stored, by any spelling. Parameters: name. Result: name, or no row where no runner has registered it.
SELECT name FROM {schema}.task_type WHERE {schema}.fold(name) = {schema}.fold(%(name)s::text)
