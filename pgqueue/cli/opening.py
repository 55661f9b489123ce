"""The way of a verb to its database: which server, does it answer, does the schema fit; each refusal says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pgqueue.cli.output import say

if TYPE_CHECKING:
    from pgqueue.client import Queue
    from pgqueue.database import Connection, Rows
    from pgqueue.settings import Settings
    from pgqueue.statements import Call, Statements


class Opened(NamedTuple):
    """A client, and a connection of our own for what the client has no method for."""

    queue: Queue
    connection: Connection
    sql: Statements

    def rows(self, call: Call) -> Rows:
        from pgqueue.database import run, single

        return run(self.connection, single(call))


def settings_of(dsn: str | None = None, schema: str | None = None, tasks: list[str] | None = None, **flags: Any) -> Settings:
    """The settings with a verb's flags on top."""
    from pgqueue.doors import split_names
    from pgqueue.settings import load

    return load(database_url=dsn, db_schema=schema, tasks=None if tasks is None else split_names(tasks), **flags)


@contextmanager
def opened(settings: Settings) -> Iterator[Opened]:
    """The database of these settings. Raises DatabaseUnavailable at once, or SchemaError where it does not fit."""
    from pgqueue.client import Queue
    from pgqueue.migrations import check_revision
    from pgqueue.server import find_server
    from pgqueue.statements import statements

    server = find_server(None, settings, say=say)
    try:
        with connected(server.dsn) as connection:
            sql = statements(settings.db_schema)
            with Queue(server.dsn, settings=settings, pool_size=1) as queue:
                result = Opened(queue.acting(door="cli"), connection, sql)
                check_revision(*result.rows(sql.revision(schema=sql.schema))[0], schema=sql.schema)
                yield result
    finally:
        server.close()


@contextmanager
def connected(dsn: str) -> Iterator[Connection]:
    """One connection in autocommit. Raises DatabaseUnavailable."""
    import psycopg

    from pgqueue.database import Connection, connection_parameters
    from pgqueue.doors import first_line
    from pgqueue.errors import DatabaseUnavailable

    try:
        connection = Connection.connect(**connection_parameters(dsn))
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {first_line(error)}") from error
    with connection:
        yield connection


def with_tasks(settings: Settings) -> Settings:
    """Import the modules of tasks. Raises DiscoveryError."""
    from pgqueue.discovery import discover

    discover(settings.tasks)
    return settings
