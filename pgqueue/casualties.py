"""What becomes of the tasks of a child process that has died, in the database: they go back at once, and a crash is counted for
those that were started. Nothing here waits for a row; what is locked is tried again, and left to rescue in the end."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from pgqueue.board import Started
from pgqueue.errors import PgQueueError
from pgqueue.link import Link
from pgqueue.statements import Statements

logger = logging.getLogger("pgqueue.supervisor")
BATCH = 1_000
MARK_TRIES = 5
"""A task that was only locked may be in the hands of another runner's lane by now, and may have ended there."""
PAUSE_SECONDS_MIN = 0.02
PAUSE_SECONDS_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Fallen:
    """A child that is gone. `started`: the attempts that its crash counts for; `outstayed`: those that a successor takes over."""

    runner_id: uuid.UUID
    name: str
    started: tuple[Started, ...] = ()
    outstayed: tuple[Started, ...] = ()


class Casualties:
    """Looks after fallen children, one at a time, over a link of its own; and says whether suspects wait."""

    def __init__(self, sql: Statements, link: Link, *, max_crashes: int, lease_seconds: float) -> None:
        self._sql = sql
        self._link = link
        self._max_crashes = max_crashes
        self._lease_seconds = lease_seconds
        self._lock = asyncio.Lock()
        self._may_end_backends = True

    async def look_after(self, fallen: Fallen) -> None:
        """Give its tasks back, count the crash, forget the runner. What is not done within a lease is left to rescue."""
        give_up_at, pause = time.monotonic() + self._lease_seconds, PAUSE_SECONDS_MIN
        care = _Care(fallen)
        while time.monotonic() < give_up_at:
            try:
                async with self._lock:
                    if await self._look_after(care):
                        return
            except (psycopg.Error, PgQueueError, OSError) as error:
                logger.warning("the tasks of %s could not be given back, trying on: %s", fallen.name, _line(error))
                await self._link.drop()
            await asyncio.sleep(pause)
            pause = min(PAUSE_SECONDS_MAX, pause * 2)

    async def has_suspects(self, *, queues: Sequence[str] | None, types: Sequence[str]) -> bool:
        """Whether tasks wait to run alone. False where the database cannot say."""
        try:
            async with self._lock:
                rows = await self._link.rows(
                    self._sql.has_suspects(queues=None if queues is None else list(queues), types=list(types))
                )
            return bool(rows[0][0])
        except (psycopg.Error, PgQueueError, OSError) as error:
            logger.debug("cannot see whether suspects wait: %s", _line(error))
            await self._link.drop()
            return False

    async def close(self) -> None:
        await self._link.drop()

    async def _look_after(self, care: _Care) -> bool:
        """One round. True: nothing is left to do."""
        await self._end_backends(care.fallen.runner_id)
        await self._hand_back(care)
        await self._mark(care)
        rows = await self._link.rows(self._sql.depart(id=care.fallen.runner_id))
        return bool(rows[0][0]) and not care.unmarked

    async def _hand_back(self, care: _Care) -> None:
        fallen, counts, batch = care.fallen, Counter[str](), BATCH
        while batch == BATCH:
            rows = await self._link.rows(
                self._sql.hand_back(
                    runner_id=fallen.runner_id,
                    started_ids=[started.id for started in fallen.started],
                    spared_ids=[started.id for started in fallen.outstayed],
                    max_crashes=self._max_crashes,
                    limit=BATCH,
                )
            )
            batch = len(rows)
            for id, status in rows:
                care.unmarked.pop(id, None)
                counts[status] += 1
                if status == "dead":
                    logger.error("task %s crashed its process too often and is dead", id)
        if counts["ready"]:
            logger.warning("gave back %s tasks of %s", counts["ready"], fallen.name)
        if counts["blocked"]:
            logger.warning(
                "%s tasks of %s crashed their process more than once and will run alone", counts["blocked"], fallen.name
            )

    async def _mark(self, care: _Care) -> None:
        """Count the crash for what was only locked: those rows say ready, and belong to nobody."""
        if not care.unmarked:
            return
        waiting = list(care.unmarked.values())
        rows = await self._link.rows(
            self._sql.mark_crashed(
                runner_id=care.fallen.runner_id,
                queues=[started.queue for started in waiting],
                ids=[started.id for started in waiting],
            )
        )
        for (id,) in rows:
            care.unmarked.pop(id, None)
        care.mark_tries += 1
        if care.mark_tries >= MARK_TRIES:
            care.unmarked.clear()

    async def _end_backends(self, runner_id: uuid.UUID) -> None:
        """What a dead child locks is free once its server processes notice: they need not take their time."""
        if not self._may_end_backends:
            return
        try:
            await self._link.rows(self._sql.end_backends(runner_id=runner_id))
        except psycopg.errors.InsufficientPrivilege as error:
            self._may_end_backends = False
            logger.warning("may not end the connections of dead children: %s", _line(error))


class _Care:
    """How far one fallen child has been looked after."""

    def __init__(self, fallen: Fallen) -> None:
        self.fallen = fallen
        self.unmarked = {started.id: started for started in fallen.started}
        self.mark_tries = 0


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
