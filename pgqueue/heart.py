"""The heart of a runner or scheduler: it beats, watches the others, and gives back what nobody holds.

A thread with a loop and a connection of its own, so that a task which blocks the runner's loop does not look like a dead runner.
(A C call that holds the GIL stops it all the same; a supervisor process can beat for its children.)
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable
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
LOOK_INTERVAL_SECONDS = 1.0
"""How often a runner looks whether one of its tasks is to be cancelled."""
RESCUE_BATCH = 1_000


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


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the heart asks of the runner, and tells it; called from the heart's thread."""

    held_claims: Callable[[], Iterable[str]] = lambda: ()
    running_count: Callable[[], int] = lambda: 0
    cancel: Callable[[list[tuple[str, str]]], None] = lambda requests: None
    gave_back: Callable[[int], None] = lambda count: None


class Heart:
    """Beats until stopped."""

    def __init__(
        self,
        dsn: str,
        sql: Statements,
        identity: Identity,
        pulse: Pulse,
        *,
        lease: timedelta,
        heartbeat: timedelta,
        deadline: timedelta,
    ) -> None:
        self._sql = sql
        self._identity = identity
        self._pulse = pulse
        self._lease_seconds = lease.total_seconds()
        self._heartbeat_seconds = heartbeat.total_seconds()
        self._deadline_seconds = min(deadline.total_seconds(), self._lease_seconds)
        self._link = Link(connection_parameters(dsn, lease=lease), name="heart", deadline_seconds=self._deadline_seconds)
        self._watch = Watch(lease_seconds=self._lease_seconds)
        self._thread = threading.Thread(target=self._live, name="pgqueue-heart", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self.beat_at = 0.0
        """When the last beat was answered, on this process's monotonic clock; 0 before the first."""

    def start(self) -> None:
        """Start beating in a thread of its own."""
        self._thread.start()
        self._ready.wait()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Say farewell and end; a database out of reach is not waited for longer than this."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
            self._thread.join(timeout_seconds)

    def _live(self) -> None:
        asyncio.run(self._beat_forever())

    async def _beat_forever(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        next_beat = time.monotonic()
        while not self._stop.is_set():
            try:
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + self._heartbeat_seconds * random.uniform(0.9, 1.0)
                    await self._beat()
                await self._look()
            except (psycopg.Error, PgQueueError, OSError) as error:
                logger.warning("a heartbeat failed, trying on: %s", str(error).strip().partition("\n")[0])
                await self._link.drop()
            except Exception:  # without a heart the runner would lose its tasks to others
                logger.exception("a heartbeat failed, trying on")
            await self._sleep(min(LOOK_INTERVAL_SECONDS, max(0.0, next_beat - time.monotonic())))
        await self._farewell()

    async def _sleep(self, seconds: float) -> None:
        assert self._stop is not None
        try:
            await asyncio.wait_for(self._stop.wait(), max(seconds, 0.01))
        except TimeoutError:
            return

    async def _beat(self) -> None:
        """One beat, then what is due with it: strays of our own, and the tasks of runners that fell silent."""
        await self._link.rows(self._sql.beat(**self._identity.parameters(), running_count=self._pulse.running_count()))
        self.beat_at = time.monotonic()
        if self._identity.kind == "runner":
            await self._give_back_strays()
        beats: list[Any] = await self._link.rows(self._sql.beats())
        stale = self._watch.stale(beats, now=time.monotonic(), connection=self._link.connect_count)
        for runner_id, heartbeat_at in stale:
            await self._rescue(runner_id, heartbeat_at)

    async def _give_back_strays(self) -> None:
        held = list(self._pulse.held_claims())
        rows = await self._link.rows(
            self._sql.strays(runner_id=self._identity.id, claim_ids=held, deadline=self._deadline_seconds * 1.5)
        )
        if rows:
            logger.warning("gave back %s tasks: the answer to their claim was lost", len(rows))
            self._pulse.gave_back(len(rows))

    async def _rescue(self, runner_id: uuid.UUID, heartbeat_at: datetime | None) -> None:
        """Give back what a silent runner held; without a beat: one that nobody knows."""
        count, batch = 0, RESCUE_BATCH
        while batch == RESCUE_BATCH:
            rows = await self._link.rows(self._sql.rescue(runner_id=runner_id, heartbeat_at=heartbeat_at, limit=RESCUE_BATCH))
            batch = len(rows)
            count += batch
        if count:
            logger.warning("rescued %s tasks of runner %s, silent for %g s", count, runner_id, self._lease_seconds)
            self._pulse.gave_back(count)
        if heartbeat_at is not None:
            await self._link.rows(self._sql.bury_runner(id=runner_id, heartbeat_at=heartbeat_at))

    async def _look(self) -> None:
        """Whether one of our tasks is to be cancelled."""
        if self._identity.kind == "runner" and self._pulse.running_count():
            requests = await self._link.rows(self._sql.cancel_requests(runner_id=self._identity.id))
            if requests:
                self._pulse.cancel(requests)

    async def _farewell(self) -> None:
        try:
            await self._link.rows(self._sql.farewell(id=self._identity.id))
        except (psycopg.Error, PgQueueError, OSError) as error:
            logger.info("could not say farewell: %s", error)
        await self._link.drop()
