"""The write-ahead log of a task, from its claim to history.

Full-page images are taken out: how many there are says how long ago the last checkpoint was, not what the queue does.
pg_walinspect says how many bytes of the log they are. What vacuum writes meanwhile is left in.
"""

from __future__ import annotations

import psycopg

from benchmarks import server
from benchmarks.drains import drain
from benchmarks.ground import Ground, Skipped

AVAILABLE = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_walinspect'"
POSITION = "SELECT pg_current_wal_insert_lsn()::text"
IMAGES = "SELECT coalesce(sum(fpi_size), 0)::float8 FROM pg_get_wal_stats(%(first)s::pg_lsn, pg_current_wal_flush_lsn())"
BYTES = "SELECT (pg_current_wal_flush_lsn() - %(first)s::pg_lsn)::float8"


def measure(ground: Ground) -> dict[str, float]:
    """Bytes a task."""
    count = ground.sizes.tasks
    with ground.filled(count) as dsn:
        if not server.ask(dsn, AVAILABLE):
            raise Skipped("the server has no extension pg_walinspect")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION pg_walinspect")
        first = server.ask(dsn, POSITION)
        drain(ground, dsn, count)
        written: float = server.ask(dsn, BYTES, first=first)
        images: float = server.ask(dsn, IMAGES, first=first)
    return {"bytes": (written - images) / count, "image_bytes": images / count}
