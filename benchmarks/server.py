"""A PostgreSQL of the benchmark's own: the embedded one, durable (fsync and synchronous_commit on), with room for its data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from pgqueue.embedded import open_embedded
from pgqueue.migrations import migrate

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "fsync": "on",
    "synchronous_commit": "on",
    "checkpoint_timeout": "30min",
}


@contextmanager
def server() -> Iterator[str]:
    """The DSN of its maintenance database; the server and its data are gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="pgqueue-bench-") as directory,
        open_embedded(Path(directory), settings=SETTINGS, linger_seconds=0.0) as embedded,
    ):
        yield embedded.dsn


@contextmanager
def database(server_dsn: str, name: str) -> Iterator[str]:
    """A fresh, migrated database."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{name}"')
    dsn = urlunsplit(urlsplit(server_dsn)._replace(path=f"/{name}"))
    migrate(dsn)
    yield dsn
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def settle_down(dsn: str) -> None:
    """Vacuum, analyze and checkpoint, so that every run starts from the same ground."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def version(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        return str(connection.execute("SHOW server_version").fetchone()[0])  # type: ignore[index]
