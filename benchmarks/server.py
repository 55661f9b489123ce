"""A PostgreSQL of the benchmark's own: the embedded one, durable (fsync and synchronous_commit on), with room for its data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
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
    "max_connections": "300",
    # Loaded for the one figure that counts statements, which switches it on for its database; counting costs the others nothing.
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "none",
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
    _drop(server_dsn, name)
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        dsn = urlunsplit(urlsplit(server_dsn)._replace(path=f"/{name}"))
        migrate(dsn)
        yield dsn
    finally:
        _drop(server_dsn, name)


def settle_down(dsn: str) -> None:
    """Vacuum, analyze and checkpoint, so that every run starts from the same ground."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def version(dsn: str) -> str:
    return str(ask(dsn, "SHOW server_version"))


def ask(dsn: str, question: str, **parameters: Any) -> Any:
    """The one value that this query returns, over a connection of its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(question.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


@contextmanager
def old_snapshot(dsn: str) -> Iterator[None]:
    """Another program's transaction, left open: nothing that dies meanwhile can be cleaned up."""
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM pgqueue.runner")
        yield


def _drop(server_dsn: str, name: str) -> None:
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
