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
from pgqueue.settings import Settings
from pgqueue.statements import Call, Statements

logger = logging.getLogger("pgqueue.maintenance")
PROMOTION_BATCH = 1_000
LOCKED_PAUSE_SECONDS = 0.1
"""The pause where tasks are due and locked: another runner is promoting them, or somebody's transaction holds them."""
SWEEP_BATCH = 1_000
SWEEP_INTERVAL_SECONDS = 60.0
"""How often expired tasks and keys are looked for; a claim notices an expired task by itself."""
PARTITIONS_INTERVAL_SECONDS = 3_600.0


class Promotion:
    """Makes due tasks ready, queue by queue, and sleeps until the next is due."""

    def __init__(
        self,
        sql: Statements,
        link: Link,
        *,
        types: list[str],
        poll_seconds: float,
        queues: Callable[[], list[str]],
        on_promoted: Callable[[str, list[tuple[int, Any, str]]], None],
        on_discovered: Callable[[list[str]], None] | None = None,
    ) -> None:
        self._sql = sql
        self._link = link
        self._types = types
        self._poll_seconds = poll_seconds
        self._queues = queues
        self._on_promoted = on_promoted
        self._on_discovered = on_discovered
        self._due_at = float("inf")
        self._hurry = asyncio.Event()

    def expect(self, delay_seconds: float) -> None:
        """A task goes back and is due in so many seconds: look then, and not at the next poll. Cheap; called on the loop."""
        due_at = time.monotonic() + delay_seconds
        if due_at < self._due_at:
            self._due_at = due_at
            self._hurry.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Promote until stopped; outages are waited out."""
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                pause = self._poll_seconds
                self._due_at = float("inf")
                try:
                    pause = await self.promote()
                except (psycopg.Error, PgQueueError, OSError) as error:
                    logger.warning("promotion failed, trying on: %s", str(error).strip().partition("\n")[0])
                    await self._link.drop()
                await self._sleep(stopped, pause)
        finally:
            stopped.cancel()

    async def _sleep(self, stopped: asyncio.Future[Any], seconds: float) -> None:
        """Until the next round: sooner, where a task is expected sooner."""
        wake_at = time.monotonic() + seconds
        while not stopped.done() and (left := min(wake_at, self._due_at) - time.monotonic()) > 0:
            self._hurry.clear()
            hurried = asyncio.ensure_future(self._hurry.wait())
            await asyncio.wait([stopped, hurried], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()

    async def promote(self) -> float:
        """One round over the queues. Returns seconds until the next."""
        if self._on_discovered is not None:
            self._on_discovered([row[0] for row in await self._link.rows(self._sql.queues())])
        # Jitter keeps many runners from promoting the same instant's tasks at the same moment.
        pause = self._poll_seconds * random.uniform(0.8, 1.0)
        for queue in self._queues():
            rows = await self._link.rows(self._sql.promote(queue=queue, types=self._types, limit=PROMOTION_BATCH))
            if rows:
                self._on_promoted(queue, [(-row[0], row[1], row[2]) for row in rows])
                if rows[0][3] >= PROMOTION_BATCH:
                    pause = 0.0
                    continue
            due = await self._link.rows(self._sql.next_due(queue=queue))
            if due:
                pause = min(pause, due[0][0] if due[0][0] > 0 else LOCKED_PAUSE_SECONDS)
        return pause


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
