-- Which of these names belong to schedules made at run time. Parameters: app, names. Result: name.
SELECT name
FROM {schema}.schedule
WHERE app = %(app)s AND source = 'runtime' AND name = ANY(%(names)s::text[])
ORDER BY name
