"""Suspects: tasks that crashed their process more than once. Each runs alone, so that a crash is its own."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

from pgqueue.context import Claimed
from pgqueue.link import Link
from pgqueue.statements import Statements

LOOK_SECONDS = 1.0
"""How often an idle runner looks for a suspect."""


class Quarantine:
    """Claims suspects one at a time for a runner that has nothing else in hand."""

    def __init__(
        self,
        sql: Statements,
        link: Link,
        *,
        runner_id: uuid.UUID,
        types: list[str],
        queues: Sequence[str] | None,
        offer: Callable[[list[Claimed]], None],
        idle: Callable[[], Awaitable[None]],
    ) -> None:
        self._sql = sql
        self._link = link
        self._runner_id = runner_id
        self._types = types  # no copy: it changes in place (policies.py)
        self._queues = None if queues is None else list(queues)
        self._offer = offer
        self._idle = idle
        self._look_at = 0.0
        self.is_busy = False
        """Whether a suspect runs: nothing else may be claimed meanwhile."""
        self.in_flight: str | None = None
        """The claim whose answer may be on its way."""

    async def run_one_now_and_then(self, stop: asyncio.Event) -> bool:
        """`run_one`, but no more often than a look is cheap."""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + LOOK_SECONDS * random.uniform(0.8, 1.2)
        return await self.run_one(stop)

    async def run_one(self, stop: asyncio.Event) -> bool:
        """Run one suspect to its end, or until `stop`. False: there is none. Raises what psycopg raises."""
        self.is_busy = True
        try:
            return await self._run_one(stop)
        finally:
            self.is_busy = False

    async def _run_one(self, stop: asyncio.Event) -> bool:
        self.in_flight = str(uuid.uuid4())
        rows = await self._link.rows(
            self._sql.claim_suspect(queues=self._queues, types=self._types, runner_id=self._runner_id, claim_id=self.in_flight)
        )
        self._offer([Claimed(queue, self.in_flight, *columns) for queue, *columns in rows])
        if rows:
            ends = [asyncio.ensure_future(self._idle()), asyncio.ensure_future(stop.wait())]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
        return bool(rows)
