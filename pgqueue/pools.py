"""A client's connections: opened when first used, repeated on a new one when one is lost. A pool, blocking and not."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from pgqueue.database import (
    AsyncConnection,
    Connection,
    Operation,
    Patience,
    arun,
    connection_parameters,
    is_lost,
    is_rolled_back,
    run,
    unavailable,
)
from pgqueue.errors import DatabaseUnavailable

RV = TypeVar("RV")
POOL_TIMEOUT_SECONDS = 10.0

Attempt = Callable[[bool], Operation[RV]]
"""Makes an operation, told whether an attempt before it may have committed."""


def _never(repeated: bool) -> bool:
    return False


class Pool:
    """Blocking connections, safe to share between threads."""

    def __init__(self, find_dsn: Callable[[], str], size: int) -> None:
        self._find_dsn = find_dsn
        self._size = size
        self._pool: ConnectionPool[Connection] | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def open(self) -> ConnectionPool[Connection]:
        """Open it, if it is not. Raises DatabaseUnavailable, at once, when nobody answers."""
        with self._lock:
            if self._pool is None or self._pid != os.getpid():  # after a fork the parent's connections are not ours
                parameters = connection_parameters(self._find_dsn())
                try:
                    Connection.connect(**parameters).close()  # a pool does not say why it cannot connect
                except psycopg.OperationalError as error:
                    raise unavailable(error) from error
                pool: ConnectionPool[Connection] = ConnectionPool(
                    connection_class=Connection, configure=_configure, **_arguments(parameters, self._size)
                )
                pool.open()
                self._pool, self._pid = pool, os.getpid()
            return self._pool

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            pool, self._pool = self._pool, None
            if pool is not None and self._pid == os.getpid():
                pool.close()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection. Raises DatabaseUnavailable when none comes free in time."""
        pool = self.open()
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(pool.connection())
            except PoolTimeout as error:
                raise _exhausted(self._size) from error
            yield connection

    def perform(
        self, attempt: Attempt[RV], *, needs_transaction: Callable[[bool], bool] = _never, is_repeatable: bool = True
    ) -> RV:
        """Drive an operation, and drive it again over another connection if that one is lost, for ten seconds.

        Not `is_repeatable`: only what is known to have been rolled back is done again.
        """
        patience, repeated = Patience(), False
        while True:
            try:
                with self.connection() as connection:
                    if not needs_transaction(repeated):
                        return run(connection, attempt(repeated))
                    with connection.transaction():
                        return run(connection, attempt(repeated))
            except (psycopg.Error, DatabaseUnavailable) as error:
                repeated = _may_have_committed(error, repeated, is_repeatable=is_repeatable)
                pause_seconds = patience.pause_after(error)
            time.sleep(pause_seconds)


class AsyncPool:
    """Connections of one event loop."""

    def __init__(self, find_dsn: Callable[[], str], size: int) -> None:
        self._find_dsn = find_dsn
        self._size = size
        self._pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._lock = asyncio.Lock()

    async def open(self) -> AsyncConnectionPool[AsyncConnection]:
        """Open it, if it is not. Raises DatabaseUnavailable, at once, when nobody answers."""
        if self._pool is not None:
            return self._pool
        async with self._lock:
            if self._pool is None:
                self._pool = await self._opened()
            return self._pool

    async def _opened(self) -> AsyncConnectionPool[AsyncConnection]:
        # An embedded server takes seconds to start: not on the loop.
        parameters = connection_parameters(await asyncio.to_thread(self._find_dsn))
        try:
            await (await AsyncConnection.connect(**parameters)).close()  # a pool does not say why it cannot connect
        except psycopg.OperationalError as error:
            raise unavailable(error) from error
        pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
            connection_class=AsyncConnection, configure=_aconfigure, **_arguments(parameters, self._size)
        )
        await pool.open()
        return pool

    async def close(self) -> None:
        """Close every connection."""
        async with self._lock:
            pool, self._pool = self._pool, None
            if pool is not None:
                await pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection. Raises DatabaseUnavailable when none comes free in time."""
        pool = await self.open()
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(pool.connection())
            except PoolTimeout as error:
                raise _exhausted(self._size) from error
            yield connection

    async def perform(
        self, attempt: Attempt[RV], *, needs_transaction: Callable[[bool], bool] = _never, is_repeatable: bool = True
    ) -> RV:
        """As Pool.perform."""
        patience, repeated = Patience(), False
        while True:
            try:
                async with self.connection() as connection:
                    if not needs_transaction(repeated):
                        return await arun(connection, attempt(repeated))
                    async with connection.transaction():
                        return await arun(connection, attempt(repeated))
            except (psycopg.Error, DatabaseUnavailable) as error:
                repeated = _may_have_committed(error, repeated, is_repeatable=is_repeatable)
                pause_seconds = patience.pause_after(error)
            await asyncio.sleep(pause_seconds)


def _configure(connection: Connection) -> None:
    """A repeated enqueue must see what its insert has waited for, whatever the database's default isolation is."""
    connection.isolation_level = IsolationLevel.READ_COMMITTED


async def _aconfigure(connection: AsyncConnection) -> None:
    await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)


def _arguments(parameters: dict[str, Any], size: int) -> dict[str, Any]:
    kwargs = dict(parameters)
    return {
        "conninfo": kwargs.pop("conninfo"),
        "kwargs": kwargs,
        "min_size": min(1, size - 1),
        "max_size": size,
        "timeout": POOL_TIMEOUT_SECONDS,
        "open": False,
        "name": "pgqueue",
    }


def _exhausted(size: int) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"no connection within {POOL_TIMEOUT_SECONDS:g} s: PostgreSQL does not answer, or all {size} connections of this "
        "client are busy (pool_size=)"
    )


def _may_have_committed(error: BaseException, before: bool, *, is_repeatable: bool) -> bool:
    """Whether an attempt may have committed by now. Raises where that is open and it must not be done twice."""
    if is_rolled_back(error):
        return before
    if not is_repeatable and is_lost(error):
        raise unavailable(error) from error
    return True
