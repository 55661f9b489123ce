"""Bring a database to the schema that this program needs, from the installed package or a checkout.

Alembic owns the revisions. Everything happens in one transaction under a transaction-level advisory lock: any number of processes
may start at once, and a migration that dies leaves nothing behind. The revision is also written into the comment of
`alembic_version`, beside the oldest revision whose programs still work on it: programs read it there, with one statement
that cannot fail, and need no Alembic for that. Logging is never reconfigured here.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from pgqueue import partitions, steps
from pgqueue.database import normalise
from pgqueue.errors import DatabaseUnavailable, SchemaError
from pgqueue.statements import quote_identifier, statements

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

T = TypeVar("T")

PACKAGE = Path(__file__).parent
# In a wheel the revisions are inside the package, in a checkout beside it.
PLACES = (PACKAGE / "_alembic", PACKAGE.parent / "alembic")

WAIT_TIMEOUT = timedelta(minutes=2)
# A waiting ALTER TABLE makes every claim queue up behind it: so it waits shortly, and tries again.
LOCK_TIMEOUT = "100ms"
PAUSE_SECONDS = (0.1, 0.5)
WAIT_REPORT_SECONDS = 5.0
CONNECT_DEFAULTS = {"connect_timeout": "10", "tcp_user_timeout": "30000", "application_name": "pgqueue migrate"}

# Alembic keeps what it runs in module globals: one migration at a time in a process.
_alembic_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Migration:
    """What `migrate` did: the revisions before (None: nothing was there) and after, and how many steps lie between."""

    before: str | None
    after: str
    steps: int


class _Busy(Exception):
    """Somebody else holds the migration lock."""


def migrate(
    dsn: str,
    *,
    schema: str = "pgqueue",
    timeout: timedelta = WAIT_TIMEOUT,
    on_wait: Callable[[str], None] | None = None,
) -> Migration:
    """Upgrade the schema to this program's revision, and make the coming days' partitions.

    `timeout` bounds the waiting for other migrations and for locks, not the work. `on_wait` is told every few seconds
    who is in the way. A newer schema that this program can still use is left as it is. Raises SchemaError for one that it
    cannot, DatabaseUnavailable if the database does not answer or the waiting took too long.
    """
    done = locked(dsn, lambda connection: _upgrade(connection, schema), schema=schema, timeout=timeout, on_wait=on_wait)
    make_partitions(dsn, schema=schema)
    return done


def head() -> str:
    """The revision this program is made for: that of its newest file. Needs neither Alembic nor a database."""
    return max(path.name.partition("_")[0] for path in (directory() / "versions").glob("[0-9]*.py"))


def directory() -> Path:
    """Where the revisions are: inside the installed package, or at the top of a checkout."""
    for place in PLACES:
        if (place / "env.py").is_file():
            return place
    raise SchemaError(f"the revisions of the schema are missing: neither {PLACES[0]} nor {PLACES[1]} is there; reinstall pgqueue")


def current(connection: psycopg.Connection[Any], *, schema: str = "pgqueue") -> str | None:
    """The revision a schema is at, None if nothing was migrated. Does not commit."""
    return stated(connection, schema=schema)[0]


def stated(connection: psycopg.Connection[Any], *, schema: str = "pgqueue") -> tuple[str | None, str | None]:
    """The revision a schema is at, and the oldest whose programs may use it: what `check_revision` takes."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(statements(schema).revision.text.encode(), {"schema": schema}).fetchone()
    return (row[0], row[1]) if row else (None, None)


def check_revision(found: str | None, oldest_compatible: str | None = None, *, schema: str) -> None:
    """Raise SchemaError unless this program can work on what `revision.sql` found in the schema.

    An older schema is refused: migrate first, then start the new program. A newer one is fine as long as it states
    that programs of our revision still work on it, so that runners of both versions work side by side.
    """
    ours = head()
    if found is None:
        raise SchemaError(f'schema "{schema}" is not migrated: run `pgqueue migrate` (this program needs revision {ours})')
    if int(found) < int(ours):
        raise SchemaError(f'schema "{schema}" is at revision {found}, this program needs {ours}: run `pgqueue migrate`')
    if int(found) > int(ours) and (oldest_compatible is None or int(oldest_compatible) > int(ours)):
        raise SchemaError(
            f'schema "{schema}" is at revision {found}, which works with programs of revision {oldest_compatible or found} '
            f"and later; this one is made for {ours}: upgrade pgqueue here"
        )


def make_partitions(dsn: str, *, schema: str) -> None:
    """Make the partitions of today and the coming days, so that nothing falls into the default ones."""
    try:
        with psycopg.connect(_conninfo(dsn), autocommit=True, prepare_threshold=None) as connection:
            steps.run(connection, partitions.ensure(schema=schema))
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f'schema "{schema}" is migrated, but its partitions could not be made: {error}') from error


def locked(
    dsn: str,
    work: Callable[[Connection], T],
    *,
    schema: str,
    timeout: timedelta = WAIT_TIMEOUT,
    on_wait: Callable[[str], None] | None = None,
) -> T:
    """Do `work` in a transaction of its own under the migration lock, and commit it.

    If another holds the lock, or a table is in use for longer than LOCK_TIMEOUT, everything is rolled back and tried again
    after a pause, until `timeout` is over.
    """
    from sqlalchemy.exc import DBAPIError

    waiting = _Waiting(schema, time.monotonic() + timeout.total_seconds(), on_wait)
    with _connect(dsn) as connection:
        while True:
            try:
                with connection.begin():
                    _take_lock(connection, schema)
                    return work(connection)
            except (_Busy, psycopg.Error, DBAPIError) as error:
                reason = _reason(error, schema)
            waiting.pause(connection, reason)


def _take_lock(connection: Connection, schema: str) -> None:
    driver = _driver(connection)
    driver.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'".encode())
    taken = driver.execute(statements(schema).migration_lock.text.encode(), {"schema": schema}).fetchone()
    if taken is None or not taken[0]:
        raise _Busy


def _reason(error: Exception, schema: str) -> str:
    """Why trying again may help; raises the error, in our words, where it cannot."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, _Busy):
        return f'schema "{schema}" is being migrated by another process'
    if isinstance(cause, (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)):
        return f'tables of schema "{schema}" are in use'
    if isinstance(cause, psycopg.OperationalError):
        raise DatabaseUnavailable(f'schema "{schema}": the connection was lost while migrating; run it again: {cause}') from error
    if isinstance(cause, psycopg.Error):
        raise SchemaError(f'schema "{schema}" could not be migrated, nothing was changed: {cause}') from error
    raise error


class _Waiting:
    """Pauses between tries, tells who is in the way, and gives up at the deadline."""

    def __init__(self, schema: str, deadline: float, on_wait: Callable[[str], None] | None) -> None:
        self.schema, self.deadline, self.on_wait = schema, deadline, on_wait
        self.report_at = 0.0

    def pause(self, connection: Connection, reason: str) -> None:
        now = time.monotonic()
        if now >= self.deadline:
            raise DatabaseUnavailable(f"gave up waiting: {self.describe(connection, reason)}")
        if self.on_wait is not None and now >= self.report_at:
            self.report_at = now + WAIT_REPORT_SECONDS
            self.on_wait(f"waiting: {self.describe(connection, reason)}")
        time.sleep(min(random.uniform(*PAUSE_SECONDS), max(self.deadline - now, 0)))

    def describe(self, connection: Connection, reason: str) -> str:
        query = statements(self.schema).migration_blockers.text.encode()
        try:
            with connection.begin():
                rows = _driver(connection).execute(query, {"schema": self.schema}).fetchall()
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(f"{reason}, and the connection was lost: {error}") from error
        who = ", ".join(f"process {pid} ({name or 'unnamed'}, open for {seconds:.0f} s)" for pid, _, name, seconds in rows)
        return f"{reason}: {who or 'nobody any more'}"


def _connect(dsn: str) -> Connection:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.pool import NullPool

    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(_conninfo(dsn), prepare_threshold=None, autocommit=True)
        # A role named like the schema finds it without naming it, and Alembic then takes its tables for unqualified ones.
        connection.execute("SET search_path = pg_catalog")
        connection.autocommit = False
        return connection

    # READ COMMITTED, whatever the role's default: under a snapshot older than the lock we would migrate twice.
    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool, isolation_level="READ COMMITTED")
    try:
        return engine.connect()
    except (psycopg.OperationalError, OperationalError) as error:
        raise DatabaseUnavailable(f"no connection to PostgreSQL: {getattr(error, 'orig', None) or error}") from error


def _conninfo(dsn: str) -> str:
    """The address with our defaults; what the caller wrote wins."""
    return make_conninfo("", **{**CONNECT_DEFAULTS, **conninfo_to_dict(normalise(dsn))})


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    """psycopg's own connection: it sends a script of many statements as it stands."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def _upgrade(connection: Connection, schema: str) -> Migration:
    """Upgrade within the caller's transaction, unless a newer program was here."""
    from alembic import command

    before, oldest_compatible = stated(_driver(connection), schema=schema)
    if before is not None and int(before) > int(head()):
        check_revision(before, oldest_compatible, schema=schema)
        return Migration(before, before, 0)
    applied: list[str] = []
    with _alembic_lock:
        command.upgrade(_config(connection, schema, lambda **kw: applied.append(str(kw["step"]))), "head")
    return Migration(before, head(), len(applied))


def _config(connection: Connection, schema: str, on_version_apply: Callable[..., object]) -> Config:
    from alembic.config import Config

    config = Config()  # without a file: nothing to read logging settings from
    config.set_main_option("script_location", str(directory()).replace("%", "%%"))
    config.attributes.update(connection=connection, schema=schema, on_version_apply=on_version_apply)
    return config


def create_schema(connection: Connection, schema: str) -> None:
    """Create the schema where it is missing; a role that may not create schemas can use one made for it."""
    driver = _driver(connection)
    if driver.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", [schema]).fetchone() is None:
        driver.execute(f"CREATE SCHEMA {quote_identifier(schema)}".encode())


def run_sql(path: Path) -> None:
    """Execute a revision's SQL file as it stands, with the escaped schema for `{schema}`. For revisions only."""
    from alembic import op

    context = op.get_context()
    script = path.read_text("utf-8").replace("{schema}", quote_identifier(context.version_table_schema or "pgqueue"))
    if context.as_sql:
        context.impl.static_output(script)
    elif context.connection is not None:
        _driver(context.connection).execute(script.encode())


def note_revision(connection: Connection, schema: str, script: ScriptDirectory) -> None:
    """Write the revision and the oldest one compatible with it where programs look. What stands there already is left alone."""
    driver = _driver(connection)
    table = sql.Identifier(schema, "alembic_version")
    if driver.execute("SELECT to_regclass(%s)", [table.as_string()]).fetchone() == (None,):
        return
    row = driver.execute(sql.SQL("SELECT max(version_num) FROM {}").format(table)).fetchone()
    revision = row[0] if row else None
    if stated(driver, schema=schema) != (revision, _oldest_compatible(script, revision)):
        driver.execute(note(script, revision, schema=schema).encode())


def note(script: ScriptDirectory, revision: str | None, *, schema: str) -> str:
    """The statement that states a revision: see `revision.sql`."""
    text = f"pgqueue revision {revision}, oldest compatible {_oldest_compatible(script, revision)}"
    statement = sql.SQL("COMMENT ON TABLE {} IS {}")
    return statement.format(sql.Identifier(schema, "alembic_version"), sql.Literal(text if revision else None)).as_string()


def _oldest_compatible(script: ScriptDirectory, revision: str | None) -> str | None:
    found = script.get_revision(revision) if revision is not None else None
    return str(found.module.oldest_compatible) if found is not None else None
