"""Upkeep that any runner may do and several may do at once: promotion, expiry, partitions, retention.

Every statement here takes rows with SKIP LOCKED or none at all: only a settle may wait for a row.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import psycopg

from pgqueue import partitions, steps
from pgqueue.errors import PgQueueError
from pgqueue.link import Link
from pgqueue.listener import LOOKAHEAD_SECONDS, Listener
from pgqueue.records import QueueRecord
from pgqueue.settings import Settings
from pgqueue.statements import Call, Statements

logger = logging.getLogger("pgqueue.maintenance")
PROMOTION_BATCH = 1_000
PROMOTION_PAUSE_MIN_SECONDS = 0.01
"""Tasks that are due one after the other are promoted together, at most so late."""
BUSY_POLL_SECONDS = 0.25
DISCOVERY_POLLS = 5
LOCKED_PAUSE_SECONDS = 0.1
"""The pause where tasks are due and locked: another runner is promoting them, or somebody's transaction holds them."""
SWEEP_BATCH = 1_000
SWEEP_INTERVAL_SECONDS = 60.0
"""How often expired tasks and keys are looked for; a claim notices an expired task by itself."""
PARTITIONS_INTERVAL_SECONDS = 3_600.0
LOCK_NAME_KEPT = timedelta(days=1)
"""How long the name of a lock is kept after it came free."""


class Promotion:
    """Makes due tasks ready, queue by queue, and sleeps until the next is due.

    A runner that rests is told of a task that is due soon (listener.py). A busy one is not, and so looks more often.
    """

    def __init__(
        self,
        sql: Statements,
        link: Link,
        *,
        types: list[str],
        poll_seconds: float,
        queues: Callable[[], list[str]],
        on_promoted: Callable[[str, list[tuple[int, Any, str]]], None],
        on_discovered: Callable[[list[QueueRecord]], None] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._sql = sql
        self._link = link
        self._types = types
        self._poll_seconds = poll_seconds
        self._queues = queues
        self._on_promoted = on_promoted
        self._on_discovered = on_discovered
        self._listener = listener
        self._due_at: dict[str, float] = {}
        self._expected: set[str] = set()
        """Queues whose next look is for a task that is due then."""
        self._discover_at = 0.0
        self._hurry = asyncio.Event()

    def look(self, queue: str | None = None) -> None:
        """Look at this queue now, or at all of them; and which there are, unless it is one that is known."""
        if queue is None:
            self._due_at.clear()
            self._discover_at = 0.0
        elif queue in self._queues():
            self._due_at.pop(queue, None)
        else:
            self._discover_at = 0.0
        self._hurry.set()

    def expect(self, queue: str, delay_seconds: float) -> None:
        """A task goes back and is due in so many seconds: look then, and not at the next poll. Cheap; called on the loop."""
        due_at = time.monotonic() + delay_seconds
        if due_at < self._due_at.get(queue, 0.0):
            self._due_at[queue] = due_at
            self._expected.add(queue)
            self._hurry.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Promote until stopped; outages are waited out."""
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self._hurry.clear()
                try:
                    pause = await self.promote()
                except (psycopg.Error, PgQueueError, OSError) as error:
                    logger.warning("promotion failed, trying on: %s", str(error).strip().partition("\n")[0])
                    await self._link.drop()
                    pause = self._poll_seconds
                    self._hurry.clear()
                await self._sleep(stopped, pause)
        finally:
            stopped.cancel()

    async def _sleep(self, stopped: asyncio.Future[Any], seconds: float) -> None:
        hurried = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait([stopped, hurried], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()

    async def promote(self) -> float:
        """One round over the queues that are due. Returns seconds until the next."""
        if self._on_discovered is not None and time.monotonic() >= self._discover_at:
            await self._discover(self._on_discovered)
        for queue in self._queues():
            if self._due_at.get(queue, 0.0) <= time.monotonic():
                await self._promote(queue)
        wake_ats = [self._due_at.get(queue, 0.0) for queue in self._queues()]
        if self._on_discovered is not None:
            wake_ats.append(self._discover_at)
        return max(0.0, min(wake_ats) - time.monotonic())

    async def _discover(self, on_discovered: Callable[[list[QueueRecord]], None]) -> None:
        """Which queues there are, and how they are set. Whoever listens is told of a new one: a look now and then is enough."""
        interval = self._poll_seconds * (1 if self._listener is None else DISCOVERY_POLLS)
        self._discover_at = time.monotonic() + interval * random.uniform(0.8, 1.0)
        on_discovered([QueueRecord(*row) for row in await self._link.rows(self._sql.queues())])

    async def _promote(self, queue: str) -> None:
        """Promote a batch of this queue, and set when to look again."""
        self._due_at[queue] = float("inf")
        try:
            rows = await self._link.rows(self._sql.promote(queue=queue, types=self._types, limit=PROMOTION_BATCH))
        except BaseException:
            self._due_at.pop(queue, None)
            raise
        promoted_count, seconds = rows[0][3], rows[0][4]
        keys = [(-row[0], row[1], row[2]) for row in rows if row[0] is not None]
        if keys or queue in self._expected:  # expected and not there: another runner has made it ready
            self._on_promoted(queue, keys)
        self._expected.discard(queue)
        # Jitter keeps many runners from promoting the same instant's tasks at the same moment.
        pause = self._longest_pause() * random.uniform(0.8, 1.0)
        if promoted_count >= PROMOTION_BATCH:
            pause = 0.0
        elif seconds is not None and seconds <= 0.0:
            pause = min(pause, LOCKED_PAUSE_SECONDS)
        elif seconds is not None and seconds < pause:
            pause = max(seconds, PROMOTION_PAUSE_MIN_SECONDS)
            self._expected.add(queue)
        if queue in self._due_at:  # else somebody asked for another look meanwhile
            self._due_at[queue] = min(self._due_at[queue], time.monotonic() + pause)

    def _longest_pause(self) -> float:
        if self._listener is None:
            return self._poll_seconds
        return min(self._poll_seconds, LOOKAHEAD_SECONDS if self._listener.is_resting else BUSY_POLL_SECONDS)


class Sweeps:
    """What must be looked after now and then: expired tasks and keys every minute, partitions and retention every hour.

    `retentions`: types that keep less history than the fleet does.
    """

    def __init__(
        self, sql: Statements, link: Link, settings: Settings, retentions: Mapping[str, timedelta] | None = None
    ) -> None:
        self._sql = sql
        self._link = link
        self._settings = settings
        self._retentions = dict(retentions or {})
        self._partitions_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until stopped; outages are waited out. The first partitions are looked after at once."""
        while not stop.is_set():
            try:
                await self.sweep()
            except (psycopg.Error, PgQueueError, OSError) as error:
                logger.warning("upkeep failed, trying on: %s", str(error).strip().partition("\n")[0])
                await self._link.drop()
            await _sleep(stop, SWEEP_INTERVAL_SECONDS * random.uniform(0.5, 1.0))

    async def sweep(self) -> None:
        """One round."""
        await self._batches(self._sql.expire(limit=SWEEP_BATCH))
        await self._batches(self._sql.forget_keys(limit=SWEEP_BATCH))
        if time.monotonic() >= self._partitions_at:
            postponed = await self._look_after_partitions()
            if not postponed:
                self._partitions_at = time.monotonic() + PARTITIONS_INTERVAL_SECONDS * random.uniform(0.5, 1.0)

    async def _look_after_partitions(self) -> bool:
        """Make and drop them, and delete what is kept for less. True: a lock was not to be had, so the next sweep tries again."""
        connection = await self._link.connection()
        schema = self._sql.schema
        ensured = await steps.arun(connection, partitions.ensure(schema=schema))
        postponed = bool(ensured.postponed)
        now = (await self._link.rows(self._sql.clock()))[0][0]
        for table, _column in partitions.PARENTS:
            retained = await steps.arun(
                connection, partitions.retain(table, older_than=now - self._retention_of(table), schema=schema)
            )
            postponed = postponed or bool(retained.postponed)
        for type_name, retention in self._retentions.items():
            await self._batches(self._sql.forget_type(type=type_name, before=now - retention, limit=SWEEP_BATCH))
        await self._batches(self._sql.forget_dead(before=now - self._settings.dead_retention, limit=SWEEP_BATCH))
        await self._batches(self._sql.forget_slots(before=now - self._settings.history_retention, limit=SWEEP_BATCH))
        await self._batches(self._sql.forget_audit(before=now - self._settings.audit_retention, limit=SWEEP_BATCH))
        await self._batches(self._sql.forget_locks(before=now - LOCK_NAME_KEPT, limit=SWEEP_BATCH))
        return postponed

    def _retention_of(self, table: str) -> timedelta:
        """What a task failed with and logged is kept for as long as the task may lie among the dead."""
        kept = self._settings.history_retention
        return kept if table == "history" else max(kept, self._settings.dead_retention)

    async def _batches(self, call: Call) -> int:
        """Repeat a statement that handles a batch and counts it, until a batch comes back short."""
        total, count = 0, SWEEP_BATCH
        while count >= SWEEP_BATCH:
            count = (await self._link.rows(call))[0][0]
            total += count
        return total


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), max(seconds, 0.001))
    except TimeoutError:
        return
