"""What an idle runner and a scheduler ask of the server while nothing happens."""

from __future__ import annotations

import psycopg

from benchmarks import server
from benchmarks.ground import Ground, Skipped
from benchmarks.programs import pause, program, runners
from benchmarks.wire import Wire

SETTLING_SECONDS = 10.0
"""From the start until polls have grown to their longest."""
AVAILABLE = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'"
CALLS = """
    SELECT coalesce(sum(calls), 0)::float8
    FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'bench')
"""


def measure(ground: Ground) -> dict[str, float]:
    """Statements a second of both together. They are counted from another database, so that counting does not count."""
    admin = ground.server_dsn
    if not server.ask(admin, AVAILABLE):
        raise Skipped("the server has no extension pg_stat_statements")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    with ground.empty("bench") as dsn:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute("ALTER DATABASE bench SET pg_stat_statements.track = 'top'")
        with (
            Wire() as wire,
            runners(ground, dsn, wire=wire) as started,
            program("pgqueue.scheduler", dsn, wire=wire) as scheduler,
        ):
            wire.open()
            everybody = [*started, scheduler]
            pause(SETTLING_SECONDS, wire, everybody)
            before: float = server.ask(admin, CALLS)
            pause(ground.sizes.rest_seconds, wire, everybody)
            after: float = server.ask(admin, CALLS)
    return {"statements": (after - before) / ground.sizes.rest_seconds}
