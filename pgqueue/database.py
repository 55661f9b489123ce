"""Connections, and the two executors of operations: `run` and `arun`.

An operation is a generator that yields `Call`s and is sent their rows; it does no I/O, so the sync and the async client share it
(psycopg's own `generators.py` is built the same way). Errors of the driver are translated here into pgqueue's.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow

from pgqueue.errors import ConfigurationError, DatabaseUnavailable, SchemaError
from pgqueue.statements import Call, Copy

RV = TypeVar("RV")
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Atomic:
    """Calls that commit together or not at all, whatever the caller's transaction is: inside of one they get a savepoint.

    What an operation yields, and gets the rows of that the inner one returns.
    """

    operation: Operation[Rows]


Operation = Generator[Call | Copy | Atomic, Rows, RV]

CONNECT_TIMEOUT_SECONDS = 10
STATEMENT_DEADLINE_SECONDS = 20.0
CANCEL_SECONDS = 1.0
"""How long the server is asked to drop a statement that was given up."""
KEEPALIVE_IDLE_SECONDS = 10
REPEAT_SECONDS = 10.0
"""For so long what met a lost connection is tried again on a new one."""
DSN_EXAMPLE = "postgresql://user:password@host:5432/database"
_SCHEME = re.compile(r"(?P<kind>[a-z][a-z0-9]*)(\+[a-z0-9_]+)?://", re.IGNORECASE | re.ASCII)


class DeadlineExceeded(psycopg.OperationalError):
    """The server did not answer within the deadline; the connection is closed and whether the statement ran is unknown."""


class _Deadline:
    """Bounds every wait of a connection: a server that waits for a dead standby, or a peer that vanished without closing,
    answers never, and `statement_timeout` cuts neither."""

    deadline_seconds: float | None = STATEMENT_DEADLINE_SECONDS


class Connection(psycopg.Connection[TupleRow], _Deadline):
    """A psycopg connection whose every statement has a deadline."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.deadline_seconds)
        except psycopg.errors._WaitTimeout as error:
            try:
                # Else a statement that waits for a lock would be carried out once it gets it, long after we gave it up.
                self.cancel_safe(timeout=CANCEL_SECONDS)
            except psycopg.Error:
                pass  # the peer is gone, and the statement with it
            self.pgconn.finish()
            raise DeadlineExceeded(f"no answer within {self.deadline_seconds} s") from error


class AsyncConnection(psycopg.AsyncConnection[TupleRow], _Deadline):
    """An async psycopg connection whose every statement has a deadline."""

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, self.deadline_seconds)
        except psycopg.errors._WaitTimeout as error:
            try:
                await self.cancel_safe(timeout=CANCEL_SECONDS)
            except psycopg.Error:
                pass  # as above
            self.pgconn.finish()
            raise DeadlineExceeded(f"no answer within {self.deadline_seconds} s") from error


def run(connection: psycopg.Connection[Any], operation: Operation[RV]) -> RV:
    """Drive an operation over a psycopg connection, in whatever transaction that is in."""
    with translated_errors():
        try:
            call = next(operation)
            while True:
                call = operation.send(_execute(connection, call))
        except StopIteration as stop:
            result: RV = stop.value
            return result


async def arun(connection: psycopg.AsyncConnection[Any], operation: Operation[RV]) -> RV:
    """Drive an operation over an async psycopg connection, in whatever transaction that is in."""
    with translated_errors():
        try:
            call = next(operation)
            while True:
                call = operation.send(await _aexecute(connection, call))
        except StopIteration as stop:
            result: RV = stop.value
            return result


def _execute(connection: psycopg.Connection[Any], call: Call | Copy | Atomic) -> Rows:
    if isinstance(call, Atomic):
        with connection.transaction():
            return run(connection, call.operation)
    # Not connection.cursor(): the caller's connection may make cursors of another kind.
    cursor = psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row)
    if isinstance(call, Copy):
        with cursor.copy(_literal(call)) as copy:
            for chunk in call.chunks:
                copy.write(chunk)
        return []
    cursor.execute(call.statement.text, Parameters(call.parameters))
    return cursor.fetchall() if _has_rows(cursor) else []


async def _aexecute(connection: psycopg.AsyncConnection[Any], call: Call | Copy | Atomic) -> Rows:
    if isinstance(call, Atomic):
        async with connection.transaction():
            return await arun(connection, call.operation)
    cursor = psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row)
    if isinstance(call, Copy):
        async with cursor.copy(_literal(call)) as copy:
            for chunk in call.chunks:
                await copy.write(chunk)
        return []
    await cursor.execute(call.statement.text, Parameters(call.parameters))
    return await cursor.fetchall() if _has_rows(cursor) else []


def _has_rows(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> bool:
    """Not by `description`, which makes an object for every column."""
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


def single(call: Call) -> Operation[Rows]:
    """The operation of one statement: its rows."""
    return (yield call)


def _literal(call: Copy) -> str:
    """COPY takes no parameters, so the driver leaves a doubled % as it is."""
    return call.statement.text.replace("%%", "%")


class Parameters(dict[str, Any]):
    """Parameters of a statement; one that is not given is NULL."""

    def __missing__(self, name: str) -> None:
        return None


def connection_parameters(dsn: str, *, lease: timedelta | None = None) -> dict[str, Any]:
    """What every connection is opened with. A dead peer is noticed within the lease, or in half a minute without one.

    What the DSN itself says about names and timeouts stays as it says.
    """
    patience_seconds = 30 if lease is None else max(2, int(lease.total_seconds() / 2))
    conninfo = normalise(dsn)
    defaults = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "pgqueue",
        "keepalives_idle": min(KEEPALIVE_IDLE_SECONDS, patience_seconds),
        "keepalives_interval": max(1, patience_seconds // 5),
        "keepalives_count": 3,
        "tcp_user_timeout": patience_seconds * 1000,
    }
    said = psycopg.conninfo.conninfo_to_dict(conninfo)
    chosen = {name: value for name, value in defaults.items() if name not in said}
    return {"conninfo": conninfo, "autocommit": True, "client_encoding": "UTF8", **chosen}


def normalise(dsn: object) -> str:
    """A DSN as libpq wants it: SQLAlchemy's `postgresql+psycopg://` and `postgres://` are accepted too.

    Raises ConfigurationError, in one line and without what may be a password, for what is none.
    """
    if not isinstance(dsn, str):
        raise ConfigurationError(f"a DSN is text such as {DSN_EXAMPLE}, not {type(dsn).__name__}")
    dsn = dsn.strip()
    scheme = _SCHEME.match(dsn)
    if scheme is not None:
        if scheme["kind"].lower() not in ("postgresql", "postgres"):
            raise ConfigurationError(f"DATABASE_URL starts with {scheme[0]}, but pgqueue runs on PostgreSQL: {DSN_EXAMPLE}")
        dsn = f"postgresql://{dsn[scheme.end() :]}"
    try:
        psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        reason = _first_line(error)
        if "percent-encoded" in reason or '"=" after' in reason:  # these two quote a piece of the text
            reason = "special characters in a user or password are percent-encoded, as %40 for @"
        raise ConfigurationError(f"DATABASE_URL is not a PostgreSQL address such as {DSN_EXAMPLE}: {reason}") from error
    return dsn


def shown(dsn: str) -> str:
    """Where a DSN points, without its password: for the screen and for logs."""
    parts = psycopg.conninfo.conninfo_to_dict(normalise(dsn))
    host = parts.get("host") or "localhost"
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{parts.get('dbname') or parts.get('user') or 'postgres'} at {host}{port}"


_SCHEMA_ERRORS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedFunction,
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's errors into pgqueue's where those say more. The rest passes through."""
    try:
        yield
    except _SCHEMA_ERRORS as error:
        raise SchemaError(
            f"the database has no pgqueue schema of this version ({_first_line(error)}): run `pgqueue migrate`"
        ) from error
    except DeadlineExceeded as error:
        raise DatabaseUnavailable(
            f"PostgreSQL gave {error}: it hangs, or another transaction holds a lock. Whether the statement ran is unknown"
        ) from error


class Patience:
    """How long a client goes on when its connection is lost: ten seconds from the first loss, in pauses that spread callers."""

    def __init__(self) -> None:
        self._deadline: float | None = None

    def pause_after(self, error: BaseException) -> float:
        """Seconds to wait before the next try. Raises the error where trying again is no use, DatabaseUnavailable at the end."""
        now = time.monotonic()
        # DatabaseUnavailable: the whole deadline of a statement, or of the pool, has passed already.
        if isinstance(error, DatabaseUnavailable) or not (is_lost(error) or is_rolled_back(error)):
            raise error
        if self._deadline is None:
            self._deadline = now + REPEAT_SECONDS
        if now > self._deadline:
            raise unavailable(error) from error
        return random.uniform(0.05, 0.2)


def unavailable(error: BaseException) -> DatabaseUnavailable:
    """The driver's error as ours, in one line."""
    return DatabaseUnavailable(f"PostgreSQL cannot be reached: {_first_line(error)}")


def is_rolled_back(error: BaseException) -> bool:
    """Whether the server chose this transaction as the victim of a deadlock or a conflict: nothing of it happened."""
    return isinstance(error, psycopg.Error) and error.sqlstate in ("40001", "40P01")


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that the same may succeed on a new one."""
    if isinstance(error, DatabaseUnavailable | DeadlineExceeded):
        return True
    if not isinstance(error, psycopg.OperationalError):
        return isinstance(error, psycopg.InterfaceError)
    # 57P01–57P03: shutdown, crash, starting up; 08: connection; 25P03: idle in transaction; 53300: too many connections.
    state = error.sqlstate
    return state is None or state in ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "53300") or state.startswith("08")


def is_refused_value(error: BaseException) -> bool:
    """Whether PostgreSQL refused a value (classes 22, 23, 54): only one row of a batch is to blame."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in ("22", "23", "54")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
