"""`Link`: one connection of the engine, kept up. Whoever uses it never sees a half-dead connection twice."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from pgqueue.database import AsyncConnection, Operation, Patience, Rows, arun, is_lost, single
from pgqueue.errors import DatabaseUnavailable, PgQueueError
from pgqueue.statements import Call

RV = TypeVar("RV")
logger = logging.getLogger("pgqueue.link")
PAUSE_MIN_SECONDS = 0.05
PAUSE_MAX_SECONDS = 2.0
_REFUSALS = ("password authentication failed", "no password supplied", "no pg_hba.conf entry", "does not exist", "invalid port")
"""What no waiting mends. libpq gives a failed connect no SQLSTATE; where the server speaks another language, we wait in vain."""


class Link:
    """A connection that is opened when first asked for, and anew after it was lost. Used by one coroutine at a time."""

    def __init__(self, parameters: dict[str, Any], *, name: str, deadline_seconds: float) -> None:
        self._parameters = {**parameters, "application_name": f"pgqueue {name}"}
        self._deadline_seconds = deadline_seconds
        self._connection: AsyncConnection | None = None
        self.connect_count = 0
        """How often a connection was opened: a change means that there was an outage in between."""

    async def connection(self) -> AsyncConnection:
        """The connection, opened if need be. Raises what psycopg raises."""
        if self._connection is None or self._connection.closed:
            try:
                self._connection = await AsyncConnection.connect(**self._parameters)
            except asyncio.CancelledError as error:
                # The frames hold a connection that is half open: the server would wait for its password for a minute.
                raise error.with_traceback(None) from None
            self._connection.deadline_seconds = self._deadline_seconds
            # A generic plan made while a table was small would be kept when it has grown to millions.
            await self._connection.execute("SET plan_cache_mode = force_custom_plan")
            self.connect_count += 1
        return self._connection

    async def run(self, operation: Operation[RV]) -> RV:
        """Run an operation once. A lost connection is dropped, and the error is the caller's."""
        try:
            return await arun(await self.connection(), operation)
        except (psycopg.Error, DatabaseUnavailable, OSError) as error:
            if is_lost(error):
                await self.drop()
            raise

    async def rows(self, call: Call) -> Rows:
        """The rows of one statement; `run` for the rest."""
        return await self.run(single(call))

    async def insist(self, call: Call) -> Rows:
        """The rows of a statement that may be carried out twice: it is repeated through lost connections, for up to ten seconds.

        Raises DatabaseUnavailable after that.
        """
        patience = Patience()
        while True:
            try:
                return await self.rows(call)
            except (psycopg.Error, PgQueueError) as error:
                await asyncio.sleep(patience.pause_after(error))

    def fileno(self) -> int | None:
        """The socket of the open connection, to watch; None without one."""
        connection = self._connection
        return None if connection is None or connection.closed else connection.fileno()

    async def drop(self) -> None:
        """Close the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def wait_until_up(
        self, *, timeout_seconds: float | None = None, say: Callable[[str], None] | None = None, stop: asyncio.Event | None = None
    ) -> bool:
        """Try to connect, with growing pauses, until it works. False: `stop` was set.

        Raises DatabaseUnavailable at the timeout.
        """
        started_at, pause, said = time.monotonic(), PAUSE_MIN_SECONDS, False
        while True:
            try:
                await self.connection()
                return True
            except (psycopg.OperationalError, OSError) as error:
                waited = time.monotonic() - started_at
                line = str(error).strip().partition("\n")[0]
                if not is_lost(error) or (timeout_seconds is not None and (waited > timeout_seconds or _is_refusal(line))):
                    raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {line}") from error
                if say is not None and not said:
                    limit = "" if timeout_seconds is None else f" (for up to {timeout_seconds:g} s)"
                    say(f"waiting for PostgreSQL{limit}: {line}")
                    said = True
            if await _stopped_within(stop, pause * random.uniform(0.5, 1.0)):
                return False
            pause = min(PAUSE_MAX_SECONDS, pause * 1.7)


def _is_refusal(line: str) -> bool:
    return any(words in line for words in _REFUSALS)


async def _stopped_within(stop: asyncio.Event | None, seconds: float) -> bool:
    if stop is None:
        await asyncio.sleep(seconds)
        return False
    try:
        await asyncio.wait_for(stop.wait(), seconds)
        return True
    except TimeoutError:
        return False
