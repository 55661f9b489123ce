"""What a runner does for itself, on its own loop: it says that the loop turns, looks whether one of its tasks is to be cancelled
and what operators say about its types, and gives back what was claimed for it and never arrived. Beating and rescuing is the
heart's business (heart.py)."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from pgqueue.board import Board
from pgqueue.errors import PgQueueError
from pgqueue.link import Link
from pgqueue.statements import Statements

logger = logging.getLogger("pgqueue.upkeep")
TICK_SECONDS = 0.1
LOOK_SECONDS = 1.0
"""How often a runner looks whether one of its tasks is to be cancelled."""
POLICIES_SECONDS = 2.0
"""How often a runner looks what operators say about its types."""
STRAY_DEADLINES = 1.5
"""A claim that is older than so many deadlines of a statement and has not arrived will not arrive."""


@dataclass(frozen=True, slots=True)
class Supervision:
    """What a supervisor gives to its child: the board, and the tasks (queue, id) over which a predecessor was killed."""

    board: Board
    predecessor_id: uuid.UUID | None = None
    outstayed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Upkept:
    """What upkeep asks of the runner, and tells it; called on the runner's loop.

    `held_claims`: the claims that it holds or that are on their way to it. `learn` gets the rows of type_policies.sql.
    """

    held_claims: Callable[[], Iterable[str]]
    running_count: Callable[[], int]
    processed_count: Callable[[], int]
    types: list[str]
    learn: Callable[[Sequence[tuple[Any, ...]]], None]
    cancel: Callable[[Sequence[tuple[str, str]]], None]
    gave_back: Callable[[int], None]


class Upkeep:
    """Runs until it is cancelled: also while the runner finishes what it has begun."""

    def __init__(
        self,
        sql: Statements,
        link: Link,
        runner: Upkept,
        board: Board,
        *,
        runner_id: uuid.UUID,
        heartbeat: timedelta,
        deadline: timedelta,
    ) -> None:
        self._sql = sql
        self._link = link
        self._runner = runner
        self._board = board
        self._runner_id = runner_id
        self._heartbeat_seconds = heartbeat.total_seconds()
        self._deadline_seconds = deadline.total_seconds()
        self._measures_memory = not sys.platform.startswith("linux")

    async def run(self) -> None:
        """Tick and look, each at its own pace: a database that does not answer must not stop the ticks."""
        ticking = asyncio.create_task(self._tick_forever(), name="pgqueue tick")
        try:
            await self._look_forever()
        finally:
            ticking.cancel()

    async def _tick_forever(self) -> None:
        while True:
            self._board.tick(
                time.monotonic(),
                running_count=self._runner.running_count(),
                processed_count=self._runner.processed_count(),
                memory_bytes=_memory() if self._measures_memory else 0,
            )
            await asyncio.sleep(TICK_SECONDS)

    async def _look_forever(self) -> None:
        strays_at = 0.0
        policies_at = time.monotonic() + POLICIES_SECONDS
        while True:
            try:
                if time.monotonic() >= strays_at:
                    strays_at = time.monotonic() + self._heartbeat_seconds * random.uniform(0.9, 1.0)
                    await self._give_back_strays()
                if time.monotonic() >= policies_at:
                    policies_at = time.monotonic() + POLICIES_SECONDS * random.uniform(0.8, 1.0)
                    self._runner.learn(await self._link.rows(self._sql.type_policies(types=self._runner.types)))
                if self._runner.running_count():
                    await self._look_for_cancellations()
            except (psycopg.Error, PgQueueError, OSError) as error:
                logger.warning("upkeep failed, trying on: %s", str(error).strip().partition("\n")[0])
                await self._link.drop()
            await asyncio.sleep(min(LOOK_SECONDS, max(0.01, min(strays_at, policies_at) - time.monotonic())))

    async def _give_back_strays(self) -> None:
        await self._link.connection()  # first: while it is being opened, more may be claimed
        held = list(self._runner.held_claims())
        rows = await self._link.rows(
            self._sql.strays(runner_id=self._runner_id, claim_ids=held, deadline=self._deadline_seconds * STRAY_DEADLINES)
        )
        self._board.reached(time.monotonic())
        if rows:
            logger.warning("gave back %s tasks: the answer to their claim was lost", len(rows))
            self._runner.gave_back(len(rows))

    async def _look_for_cancellations(self) -> None:
        requests = await self._link.rows(self._sql.cancel_requests(runner_id=self._runner_id))
        self._board.reached(time.monotonic())
        if requests:
            self._runner.cancel([(task_id, claim_id) for task_id, claim_id in requests])


def _memory() -> int:
    """The most memory that this process has had: where there is no /proc, nobody else can tell."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
