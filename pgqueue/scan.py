"""Scans from the head: what became ready *behind* the watermarks. Beside the lane on a task's way, on a connection of its own.

Claims start at their watermarks, so nobody else would see a task that commits late, that was enqueued with a past `at=`, that was
rescued, or that another runner promoted. Scans walk what the watermarks passed, dead entries too. So they are elected (one runner
of a schema at a time, by an advisory lock that only saves work), sliced (each statement walks a bounded number of dead entries)
and budgeted: a tenth of the runner's time at most, whether they find something or not.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from pgqueue.aging import Agings
from pgqueue.context import Claimed
from pgqueue.errors import PgQueueError
from pgqueue.link import Link
from pgqueue.statements import Statements
from pgqueue.strangers import Strangers
from pgqueue.watermark import Slice, Watermarks

logger = logging.getLogger("pgqueue.scan")
SHARE = 0.1
"""Part of the runner's time that scans may take, and the blocking of strangers while it claims."""
LOOK_SHARE = 0.9
"""The same for looking ahead, which is due seldom: until it is done every claim walks the same strangers."""
REST_SHARE = 0.5
"""The same for blocking strangers while nothing is claimed, and for freeing them."""
CLAIM_LIMIT = 100
"""Tasks that one scan takes at most. Lanes that claim at the same moment do not know of them."""
PAUSE_MIN_SECONDS = 0.05
PAUSE_GROWTH = 1.6
BUSY_PAUSE_SECONDS = 0.5
"""The longest pause after a scan of everything while the runner claims: so a late commit waits for this and for one scan."""
REST_PAUSE_SECONDS = 5.0
"""The same while nothing is claimed."""
WATCH_SECONDS = 0.25
"""Between two looks at whether there is anything to scan; they cost no statement."""
FAILURE_PAUSE_SECONDS = 1.0
STATEMENT_SECONDS = 0.02
"""About what one statement may take: the number of slices in it is halved and doubled towards that."""
WIDTH_MAX = 64
"""Slices in one statement at most, without those just behind a watermark."""
HOT_MAX = 8
"""Slices where something was found and that are looked at again with the next statement."""
CHEAP_SECONDS = 0.01
"""A scan of everything that took less found few dead entries, so claims may as well start from the head."""


@dataclass(slots=True)
class _Progress:
    """How far the scan of one queue is. `rest`: slices still to come in this round over everything."""

    rest: list[Slice] = field(default_factory=list)
    hot: list[Slice] = field(default_factory=list)
    width: int = 1
    pause: float = PAUSE_MIN_SECONDS
    round_seconds: float = 0.0
    has_found: bool = False
    move_count: int = -1


class HeadScan:
    """Finds ready tasks behind the watermarks and claims them for one runner, or takes the watermarks back to them.

    `room` says how many tasks the runner could take now; None: it claims nothing, being paused. Without room a scan only looks,
    and takes the watermark back to what it sees, so that the lane's next claim finds it first. `on_claimed` gets each scan's
    tasks in the order to run them; `on_ready` the name of a queue whose watermarks went back.
    """

    def __init__(
        self,
        sql: Statements,
        link: Link,
        *,
        runner_id: uuid.UUID,
        types: list[str],
        watermarks: Mapping[str, Watermarks],
        agings: Agings | None = None,
        queues: Callable[[], list[str]],
        strangers: Strangers,
        room: Callable[[], int | None],
        on_claimed: Callable[[list[Claimed]], None],
        on_ready: Callable[[str], None],
    ) -> None:
        self._sql = sql
        self._link = link
        self._runner_id = runner_id
        self._types = types  # no copy: it changes in place (policies.py)
        self._watermarks = watermarks
        self._agings = Agings() if agings is None else agings
        self._queues = queues
        self._strangers = strangers
        self._room = room
        self._on_claimed = on_claimed
        self._on_ready = on_ready
        self._progress: dict[str, _Progress] = {}
        self._due_at: dict[tuple[str, str], float] = {}
        self._rested_at: dict[str, float] = {}
        self._moves: dict[str, tuple[int, float]] = {}
        self._hurried = asyncio.Event()
        self.in_flight: str | None = None
        """The claim whose answer may be on its way."""
        self._server_seconds = 0.0
        """What the last scan cost. The server's time: on the loop of a busy runner an answer waits for its turn."""

    def hurry(self) -> None:
        """Somebody said that there is work: it may be behind the watermarks. Cheap; called on the loop."""
        for queue, progress in self._progress.items():
            progress.pause = PAUSE_MIN_SECONDS
            self._due_at.pop((queue, "scan"), None)
        self._hurried.set()

    def start_over(self) -> None:
        """Which types may be claimed has changed: pass by, block and free what there is now."""
        self._due_at.clear()
        self._hurried.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Scan until stopped, one statement at a time; outages are waited out."""
        while not stop.is_set():
            self._hurried.clear()
            try:
                pause = await self.turn(stop)
            except (psycopg.Error, PgQueueError, OSError) as error:
                logger.warning("a scan failed, trying on: %s", str(error).strip().partition("\n")[0])
                await self._link.drop()
                pause = FAILURE_PAUSE_SECONDS
            await _sleep(pause, stop, self._hurried)

    async def turn(self, stop: asyncio.Event) -> float:
        """Whatever is due, queue by queue; a job rests after each statement as its share asks. Returns seconds until the next."""
        next_at = time.monotonic() + WATCH_SECONDS
        for queue in self._queues():
            for name, (job, share) in self._jobs(queue).items():
                started_at = time.monotonic()
                due_at = max(self._due_at.get((queue, name), 0.0), self._rested_at.get(name, 0.0))
                if stop.is_set() or started_at < due_at:
                    next_at = min(next_at, due_at)
                    continue
                self._server_seconds = 0.0
                pause = await job(queue)
                now = time.monotonic()
                spent = self._server_seconds if name == "scan" else now - started_at
                self._rested_at[name] = now + spent * (1 / share - 1)
                self._due_at[queue, name] = now + pause
                next_at = min(next_at, max(self._due_at[queue, name], self._rested_at[name]))
        return max(0.0, next_at - time.monotonic())

    def _jobs(self, queue: str) -> dict[str, tuple[Callable[[str], Awaitable[float]], float]]:
        """What there is to do for a queue, each with its part of the runner's time."""
        strangers = self._strangers
        return {
            "scan": (self.scan, SHARE),
            "look": (strangers.look_ahead, LOOK_SHARE),
            "block": (strangers.block, SHARE if self._is_claiming(queue) else REST_SHARE),
            "free": (strangers.free, REST_SHARE),
        }

    def _is_claiming(self, queue: str) -> bool:
        """Whether watermarks have moved within the last second."""
        move_count, now = self._watermarks[queue].move_count, time.monotonic()
        seen_count, moved_at = self._moves.get(queue, (0, 0.0))
        if move_count != seen_count:
            moved_at = now
            self._moves[queue] = move_count, moved_at
        return now - moved_at < 1.0

    async def scan(self, queue: str) -> float:
        """One statement's worth of one queue. Returns seconds until the next."""
        watermarks, progress = self._watermarks[queue], self._progress.setdefault(queue, _Progress())
        room = self._room()
        if watermarks.is_whole or room is None:
            return WATCH_SECONDS
        if not progress.rest:
            progress.rest, progress.round_seconds, progress.has_found = watermarks.slices(), 0.0, False
        part = progress.rest[: progress.width]
        slices = list(dict.fromkeys([*progress.hot, *watermarks.edges(), *part]))
        found = await self._claim(queue, slices, min(room, CLAIM_LIMIT)) if room > 0 else await self._peek(queue, slices)
        spent = self._server_seconds
        if found is None:
            return PAUSE_MIN_SECONDS * random.uniform(1.0, 2.0)
        progress.width = max(1, progress.width // 2) if spent > STATEMENT_SECONDS else min(WIDTH_MAX, progress.width * 2)
        progress.round_seconds += spent
        progress.hot = _distinct(watermarks.slice_of(*key) for key in found)
        progress.has_found = progress.has_found or bool(found)
        if not 0 < room <= len(found):  # else there may be more in these slices
            del progress.rest[: len(part)]
        if found or progress.rest:
            progress.pause = PAUSE_MIN_SECONDS
            return PAUSE_MIN_SECONDS
        return await self._end_round(queue, watermarks, progress)

    async def _end_round(self, queue: str, watermarks: Watermarks, progress: _Progress) -> float:
        """Everything behind the watermarks has been seen once. Rest: the longer, the longer nothing is found.

        A queue at rest whose head is cheap to walk is claimed from its head again: what comes late is then found by the next
        claim, which a notice wakes, and no scan is needed until tasks have been claimed. If others leave dead entries there
        meanwhile, this runner's polls walk them as a new runner's do, until it claims.
        """
        is_moving = progress.move_count != watermarks.move_count
        progress.move_count = watermarks.move_count
        if progress.has_found:
            progress.pause = PAUSE_MIN_SECONDS
        else:
            progress.pause = min(BUSY_PAUSE_SECONDS if is_moving else REST_PAUSE_SECONDS, progress.pause * PAUSE_GROWTH)
            if not is_moving and progress.round_seconds < CHEAP_SECONDS and await self._is_empty(queue):
                watermarks.forget()
        return progress.pause

    async def _is_empty(self, queue: str) -> bool:
        """Whether nothing is ready, of any type, and that was quickly seen."""
        started_at = time.monotonic()
        rows = await self._link.rows(self._sql.any_ready(queue=queue))
        return not rows[0][0] and time.monotonic() - started_at < CHEAP_SECONDS

    async def _claim(self, queue: str, slices: Sequence[Slice], limit: int) -> list[tuple[int, Any, str]] | None:
        """Take what is there. Returns the keys; None: another runner is scanning."""
        self.in_flight = claim_id = str(uuid.uuid4())
        rows = await self._execute(
            self._sql.scan_head.text, queue, slices, runner_id=str(self._runner_id), claim_id=claim_id, limit=limit
        )
        batch = [Claimed(queue, claim_id, *row[2:]) for row in rows if row[2] is not None]
        batch.sort(key=self._agings.order(queue))
        if batch:
            self._on_claimed(batch)
        return [(claimed.priority, claimed.maturity_at, claimed.id) for claimed in batch] if rows[0][0] else None

    async def _peek(self, queue: str, slices: Sequence[Slice]) -> list[tuple[int, Any, str]] | None:
        """Take the watermarks back to what is there. Returns the keys; None: another runner is scanning."""
        rows = await self._execute(self._sql.scan_peek.text, queue, slices)
        keys = [(row[2], row[3], row[4]) for row in rows if row[2] is not None]
        for key in keys:
            self._watermarks[queue].retreat(*key)
        if keys:
            self._on_ready(queue)
        return keys if rows[0][0] else None

    async def _execute(self, text: str, queue: str, slices: Sequence[Slice], **parameters: Any) -> list[tuple[Any, ...]]:
        connection = await self._link.connection()
        cursor = connection.cursor(binary=True)
        names = ("priorities", "lower_maturities", "lower_ids", "upper_maturities", "upper_ids")
        arrays = dict(zip(names, map(list, zip(*slices, strict=True)), strict=True))
        common = {"schema": self._sql.schema, "queue": queue, "types": self._types}
        await cursor.execute(text, {**common, **arrays, **parameters}, prepare=True)
        rows = await cursor.fetchall()
        self._server_seconds = rows[0][1]
        return rows


def _distinct(slices: Any) -> list[Slice]:
    return list(dict.fromkeys(one for one in slices if one is not None))[:HOT_MAX]


async def _sleep(seconds: float, *events: asyncio.Event) -> None:
    """So long, or until one of the events; less than a millisecond is left out, since no timer keeps it."""
    if seconds < 0.001:
        await asyncio.sleep(0)
        return
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
