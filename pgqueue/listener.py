"""The listener of one runner: it is told of tasks while the runner sleeps, over a connection of its own.

NOTIFY takes a lock on the whole database at commit, so it is sent only where somebody asks for it: a sequence, `wake`, holds the
second until which notice is wanted, and enqueue.sql reads it. `rest` says that the runner has nothing to do: the flag is moved
ahead, and again before it lapses; the engine looks once more after that, for what came before and sent nothing. `busy` says that
it is at work: a notice then sets the flag back, so that a burst of enqueues sends few. Every listener hears every notice, and one
that still rests asks again a little later.

Nothing correct depends on this: a poll finds what a notice missed. It never claims.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import Notify

from pgqueue.database import AsyncConnection, arun, single
from pgqueue.errors import PgQueueError
from pgqueue.link import Link
from pgqueue.statements import Statements

logger = logging.getLogger("pgqueue.listener")
LOOKAHEAD_SECONDS = 5.0
"""While a runner rests, the flag is at least so far ahead: a delayed task that is due within it sends notice."""
ARM_SECONDS = 15.0
"""So far the flag is moved: a runner that dies asleep costs a notice per enqueue for this long."""
AGAIN_SECONDS = 0.2
"""After a notice, who still rests asks again so much later. Longer than it takes the woken to set the flag back."""
FRESH_SECONDS = 0.1
"""So long after a notice the flag may be set back for it. Shorter than AGAIN_SECONDS: later it would undo what others ask."""
PAUSE_MIN_SECONDS = 0.1
PAUSE_MAX_SECONDS = 5.0


class Listener:
    """Runs on the runner's loop, and calls back there.

    on_notice: a task of this queue is ready, or due soon. on_listening: look at everything once more, because notices may have
    been missed until now: after a reconnect, or because nobody had asked for them.
    """

    def __init__(
        self, sql: Statements, link: Link, *, on_notice: Callable[[str], None], on_listening: Callable[[], None]
    ) -> None:
        self._sql = sql
        self._link = link
        self._on_notice = on_notice
        self._on_listening = on_listening
        self._stirred = asyncio.Event()
        self._is_resting = False
        self._arm_at = self._lapses_at = 0.0
        self._notified_at = self._fresh_until = 0.0
        self._is_wanted_back = False

    @property
    def is_resting(self) -> bool:
        """Whether the flag stands for this runner, or will in a moment."""
        return self._is_resting

    def rest(self) -> None:
        """The runner has nothing to do in any queue. Cheap; called on the loop."""
        if not self._is_resting:
            self._is_resting = True
            self._arm_at = 0.0  # who was woken and has worked since need not wait for those who were not
            self._stirred.set()

    def busy(self) -> None:
        """The runner has found something to do. Cheap; called on the loop."""
        self._is_resting = False
        if time.monotonic() < self._fresh_until:
            self._fresh_until = 0.0
            self._set_back()

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until stopped; outages are waited out, in growing pauses."""
        stopped = asyncio.ensure_future(stop.wait())
        pause = PAUSE_MIN_SECONDS
        try:
            while not stop.is_set():
                try:
                    await self._link.rows(self._sql.listen())
                    self._arm_at = self._lapses_at = 0.0
                    self._on_listening()
                    pause = PAUSE_MIN_SECONDS
                    await self._listen(await self._link.connection(), stopped)
                except (psycopg.Error, PgQueueError, OSError) as error:
                    logger.warning("listening failed, trying on: %s", str(error).strip().partition("\n")[0])
                    await self._link.drop()
                    await asyncio.wait([stopped], timeout=pause * random.uniform(0.5, 1.0))
                    pause = min(PAUSE_MAX_SECONDS, pause * 2)
        finally:
            stopped.cancel()

    async def _listen(self, connection: AsyncConnection, stopped: asyncio.Future[Any]) -> None:
        """Wait for notices, and keep the flag where the runner wants it. Raises what psycopg raises."""
        connection.add_notify_handler(self._hear)  # of notices that come in with the answer to a statement
        while not stopped.done():
            self._stirred.clear()
            if self._is_wanted_back:
                self._is_wanted_back = False
                await arun(connection, single(self._sql.disarm()))
            elif self._is_resting and time.monotonic() >= self._arm_at:
                await self._arm(connection)
            else:
                await self._wait_for_notice(connection, stopped)

    async def _arm(self, connection: AsyncConnection) -> None:
        heard_at, was_lapsed = self._notified_at, time.monotonic() >= self._lapses_at
        arm = self._sql.arm(seconds=ARM_SECONDS, enough=ARM_SECONDS - LOOKAHEAD_SECONDS)
        rows = await arun(connection, single(arm))
        if self._notified_at != heard_at:
            return  # who was told may have set it back meanwhile
        left, now = rows[0][0], time.monotonic()
        self._lapses_at = now + left
        # The spread keeps a fleet from coming at once: who comes late finds it done.
        self._arm_at = now + max(0.0, left - LOOKAHEAD_SECONDS) * random.uniform(0.8, 1.0)
        if was_lapsed:
            self._on_listening()

    async def _wait_for_notice(self, connection: AsyncConnection, stopped: asyncio.Future[Any]) -> None:
        """Until something comes in, the runner falls asleep, or the flag is about to lapse."""
        loop, socket = asyncio.get_running_loop(), connection.fileno()
        timeout = max(0.0, self._arm_at - time.monotonic()) if self._is_resting else None
        loop.add_reader(socket, self._stirred.set)
        stirred = asyncio.ensure_future(self._stirred.wait())
        try:
            await asyncio.wait([stirred, stopped], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stirred.cancel()
            loop.remove_reader(socket)
        connection.pgconn.consume_input()
        while (notice := connection.pgconn.notifies()) is not None:
            self._hear(Notify(notice.relname.decode(), notice.extra.decode(), notice.be_pid))

    def _hear(self, notice: Notify) -> None:
        self._notified_at = time.monotonic()
        # Somebody who is woken sets the flag back: what was asked for until now may be undone.
        self._lapses_at = 0.0
        self._arm_at = self._notified_at + AGAIN_SECONDS
        self._fresh_until = self._notified_at + FRESH_SECONDS
        if not self._is_resting:
            self._set_back()
        self._on_notice(notice.payload)

    def _set_back(self) -> None:
        self._is_wanted_back = True
        self._stirred.set()
