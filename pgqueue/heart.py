"""The heart of runners and schedulers: it beats for them, watches all others, and gives back what nobody holds any more.

`Heart` runs on whatever loop awaits it: a supervisor's own, where it beats for every child; or, for a Runner or Scheduler in
somebody's process, that of a thread (`HeartThread`), so that a task which blocks the runner's loop does not make it look dead.
(A C call that holds the GIL stops a thread all the same.)
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from pgqueue.database import connection_parameters
from pgqueue.errors import PgQueueError
from pgqueue.link import Link
from pgqueue.statements import Statements
from pgqueue.watch import Watch

logger = logging.getLogger("pgqueue.heart")
RESCUE_BATCH = 1_000
RETRY_SECONDS_MAX = 1.0
"""A beat that failed is tried again after so long, if not sooner."""
DEADLINE_SHARE = 1 / 3
"""The longest a statement of the heart may take, as a part of the lease: a beat that hangs must leave time for another."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a runner says of itself with each beat; the columns of the table `runner`."""

    id: uuid.UUID
    name: str
    kind: str
    host: str
    pid: int
    version: str
    app: str | None
    queues: list[str] | None
    types: list[str] | None
    concurrency: int

    def parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Pulse:
    """One runner or scheduler to beat for."""

    def __init__(
        self,
        identity: Identity,
        *,
        running_count: Callable[[], int] = lambda: 0,
        may_beat: Callable[[], bool] = lambda: True,
    ) -> None:
        self.identity = identity
        self.running_count = running_count
        self.may_beat = may_beat
        self.beat_at = 0.0
        """When the last beat was answered, on this process's monotonic clock; 0 before the first."""
        self.trying_since: float | None = None
        """Since when beats have been tried in vain; None: the last one was answered."""


class Heart:
    """Beats, watches and rescues. Used by one coroutine."""

    def __init__(
        self,
        dsn: str,
        sql: Statements,
        *,
        lease: timedelta,
        heartbeat: timedelta,
        deadline: timedelta,
        max_crashes: int,
        on_rescued: Callable[[int], None] = lambda count: None,
        on_peers: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._sql = sql
        self._lease_seconds = lease.total_seconds()
        self._heartbeat_seconds = heartbeat.total_seconds()
        self._max_crashes = max_crashes
        self._on_rescued = on_rescued
        self._on_peers = on_peers
        deadline_seconds = min(deadline.total_seconds(), self._lease_seconds * DEADLINE_SHARE)
        self._link = Link(connection_parameters(dsn, lease=lease), name="heart", deadline_seconds=deadline_seconds)
        self._watch = Watch(lease_seconds=self._lease_seconds)
        self._hurry = asyncio.Event()
        self._may_end_backends = True

    async def run(self, stop: asyncio.Event, pulses: Callable[[], Sequence[Pulse]]) -> None:
        """Beat for whom `pulses` names, until stopped."""
        while not stop.is_set():
            self._hurry.clear()
            pause = min(RETRY_SECONDS_MAX, self._heartbeat_seconds)
            try:
                await self.beat(pulses())
                await self.watch()
                pause = self._heartbeat_seconds
            except (psycopg.Error, PgQueueError, OSError) as error:
                logger.warning("a heartbeat failed, trying on: %s", str(error).strip().partition("\n")[0])
                await self._link.drop()
            except Exception:  # without a heart the runner would lose its tasks to others
                logger.exception("a heartbeat failed, trying on")
            await self._sleep(stop, pause * random.uniform(0.9, 1.0))

    def hurry(self) -> None:
        """Beat now: there is somebody new. On the heart's loop."""
        self._hurry.set()

    async def beat(self, pulses: Sequence[Pulse]) -> None:
        """One beat for each. Raises what psycopg raises."""
        beating = [pulse for pulse in pulses if pulse.may_beat()]
        for pulse in beating:  # all of them: the first one that fails ends the round
            if pulse.trying_since is None:
                pulse.trying_since = time.monotonic()
        for pulse in beating:
            await self._link.rows(self._sql.beat(**pulse.identity.parameters(), running_count=pulse.running_count()))
            pulse.beat_at, pulse.trying_since = time.monotonic(), None

    async def watch(self) -> None:
        """Look at everybody's beats, and give back the tasks of those that fell silent. Raises what psycopg raises."""
        rows: list[Any] = await self._link.rows(self._sql.beats())
        beats = [(runner_id, heartbeat_at) for runner_id, heartbeat_at, _kind in rows]
        stale = self._watch.stale(beats, now=time.monotonic(), connection=self._link.connect_count)
        kinds = Counter(kind for runner_id, heartbeat_at, kind in rows if (runner_id, heartbeat_at) not in stale)
        self._on_peers(kinds["runner"])
        for runner_id, heartbeat_at in stale:
            await self._rescue(runner_id, heartbeat_at)

    async def farewell(self, runner_ids: Sequence[uuid.UUID] = ()) -> None:
        """Say that these leave in order, and close. A database out of reach is not waited for."""
        try:
            for runner_id in runner_ids:
                await self._link.rows(self._sql.farewell(id=runner_id))
        except (psycopg.Error, PgQueueError, OSError) as error:
            logger.info("could not say farewell: %s", error)
        await self._link.drop()

    async def _sleep(self, stop: asyncio.Event, seconds: float) -> None:
        events = [asyncio.ensure_future(event.wait()) for event in (stop, self._hurry)]
        try:
            await asyncio.wait(events, timeout=max(seconds, 0.01), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for event in events:
                event.cancel()

    async def _rescue(self, runner_id: uuid.UUID, heartbeat_at: datetime | None) -> None:
        """Give back what a silent runner held; without a beat: one that nobody knows."""
        await self._end_backends(runner_id)
        count, batch = 0, RESCUE_BATCH
        while batch == RESCUE_BATCH:
            rows = await self._link.rows(
                self._sql.rescue(
                    runner_id=runner_id, heartbeat_at=heartbeat_at, max_crashes=self._max_crashes, limit=RESCUE_BATCH
                )
            )
            batch = len(rows)
            count += batch
        if count:
            logger.warning("rescued %s tasks of runner %s, silent for %g s", count, runner_id, self._lease_seconds)
            self._on_rescued(count)
        if heartbeat_at is not None:
            await self._link.rows(self._sql.bury_runner(id=runner_id, heartbeat_at=heartbeat_at))

    async def _end_backends(self, runner_id: uuid.UUID) -> None:
        """A runner whose machine is gone keeps its locked rows until its server processes notice: end them."""
        if not self._may_end_backends:
            return
        try:
            await self._link.rows(self._sql.end_backends(runner_id=runner_id))
        except psycopg.errors.InsufficientPrivilege as error:
            self._may_end_backends = False
            logger.warning("may not end the connections of silent runners: %s", str(error).strip().partition("\n")[0])


class HeartThread:
    """A heart with one pulse, in a thread with a loop of its own."""

    def __init__(self, make: Callable[[], Heart], pulse: Pulse) -> None:
        self._make = make
        self._pulse = pulse
        self._thread = threading.Thread(target=self._live, name="pgqueue-heart", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()

    def start(self) -> None:
        """Start beating."""
        self._thread.start()
        self._ready.wait()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Say farewell and end; a database out of reach is not waited for longer than this."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
            self._thread.join(timeout_seconds)

    def _live(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        heart = self._make()
        self._ready.set()
        await heart.run(self._stop, lambda: [self._pulse])
        await heart.farewell([self._pulse.identity.id])
