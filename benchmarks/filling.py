"""Fills tables on the server itself, in seconds, with rows as the enqueue statements write them."""

from __future__ import annotations

import psycopg

FILL = """
    INSERT INTO pgqueue.task (type, status, priority, payload, maturity_at)
    SELECT
        CASE WHEN number %% 10 = 0 THEN coalesce(%(every_tenth)s::text, %(type)s::text) ELSE %(type)s::text END,
        %(status)s::pgqueue.status, %(priority)s::smallint, jsonb_build_object('number', number),
        clock_timestamp() + make_interval(secs => %(delay)s::float8)
    FROM generate_series(0, %(count)s::bigint - 1) AS number
    ORDER BY number
"""


def fill(
    dsn: str, count: int, *, type: str = "noop", every_tenth: str | None = None, priority: int = 100, delay: float = 0.0
) -> None:
    """Insert so many tasks of the default queue, in the order of their numbers. `delay` in seconds: scheduled, not ready."""
    parameters = {
        "type": type,
        "every_tenth": every_tenth,
        "status": "scheduled" if delay else "ready",
        "priority": priority,
        "delay": delay,
        "count": count,
    }
    with psycopg.connect(dsn) as connection:
        connection.execute(FILL, parameters)
