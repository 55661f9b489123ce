"""The engine of one runner: the life of its parts (parts.py), from the first connection to the last, and the loop that claims.

Lanes and slots, executor and completer carry a task from claim to history; promotion, sweeps and scans look after the queue on
the side, upkeep after the runner itself. `Runner` (worker.py) starts, pauses and stops it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import psycopg

from pgqueue.errors import PgQueueError
from pgqueue.hooks import call_start_hooks, call_stop_hooks
from pgqueue.inheritance import settle_outstayed, take_over
from pgqueue.parts import Parts
from pgqueue.readiness import check_schema, register_types
from pgqueue.records import QueueRecord

logger = logging.getLogger("pgqueue.runner")
FLUSH_SECONDS_MAX = 10.0
"""At the end, the settling of what was interrupted may take this long."""


class Engine(Parts):
    """Made on the event loop it runs on, once. `prepare`, `start`, then wait for `ending`, then `finish`."""

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def prepare(self) -> None:
        """Connect (waiting for a server that is not there yet, and saying so), check the schema, register, run the hooks."""
        timeout = self._settings.connect_timeout.total_seconds()
        await self._claim_link.wait_until_up(timeout_seconds=timeout, say=logger.warning)
        await check_schema(self._claim_link, self._sql)
        await register_types(self._claim_link, self._sql, [self._registry.get(name) for name in self._assignment.types])
        # Before the first claim: it must know the order of its queue, and which types may be claimed.
        self._on_discovered([QueueRecord(*row) for row in await self._claim_link.rows(self._sql.queues())])
        self._on_policies(await self._claim_link.rows(self._sql.type_policies(types=self._assignment.types)))
        await call_start_hooks(self._services.resources)
        await self._take_over()

    async def _take_over(self) -> None:
        """What the child before us was killed over has failed: settle it so."""
        if self._supervision is None:
            return
        taken = await take_over(self._upkeep_link, self._sql, self._supervision, runner_id=self._assignment.id)
        for claimed in taken:
            self._taken_claim = claimed.claim_id
            self.completer.add(
                settle_outstayed(claimed, self._policies.registry, self._services, self._settings.undecodable_delay)
            )

    def start(self) -> None:
        """Begin to beat, to claim and to settle."""
        if self._heart is not None:
            self._heart.start()
        self._keeping = asyncio.create_task(self._watched(self._upkeep.run()), name="pgqueue upkeep")
        lanes = {f"lane {number}": self._claim_forever(number) for number in range(self._claiming.lanes)}
        parts = {
            **lanes,
            "scan": self._scan.run(self._stopping),
            "promotion": self._promotion.run(self._stopping),
            "sweeps": self._sweeps.run(self._stopping),
        }
        if self._listener is not None:
            parts["listener"] = self._listener.run(self._stopping)
        self._running = [asyncio.create_task(self._watched(part), name=f"pgqueue {name}") for name, part in parts.items()]
        self._completing = asyncio.create_task(self._watched(self.completer.run()), name="pgqueue completer")

    async def stop_claiming(self) -> None:
        """Claim no more; what was claimed and not started goes back."""
        self._stopping.set()
        self.slots.close()
        self._claiming.stop()
        # The claims that are under way must come in: what they took is ours to give back.
        await asyncio.gather(*self._running, return_exceptions=True)
        self.slots.give_back()

    async def finish(self) -> None:
        """Write down what has ended, say farewell, close. What still runs by now is left to be fenced off."""
        if self._completing is not None:
            self.completer.close()
            await asyncio.wait([self._completing], timeout=FLUSH_SECONDS_MAX)
            self._completing.cancel()
            await asyncio.gather(self._completing, return_exceptions=True)
        try:
            await call_stop_hooks(self._services.resources)
        except Exception:
            logger.exception("a stop hook failed")
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._heart is not None:
            await asyncio.to_thread(self._heart.stop)
        await self.close()

    async def close(self) -> None:
        """Let go of threads, processes and connections."""
        self._threads.close()
        self._processes.close()
        for link in self._links:
            await link.drop()
        await self._services.close()

    # ── claiming ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _claim_forever(self, number: int) -> None:
        if self._assignment.suspects_only:
            await self._run_suspects()
        else:
            await self._claiming.run(number)
        if not self._stopping.is_set():
            self.ending.set()

    async def _run_suspects(self) -> None:
        """Run the tasks that crashed their process before, one at a time, until there is none or the runner is stopped."""
        while not self._stopping.is_set():
            try:
                if not await self._quarantine.run_one(self._stopping):
                    return
            except (psycopg.Error, PgQueueError, OSError) as error:
                logger.warning("a look for suspects failed, trying on: %s", str(error).strip().partition("\n")[0])
                await self._claim_link.drop()
                await self._claim_link.wait_until_up(stop=self._stopping)

    async def _watched(self, part: Coroutine[Any, Any, None]) -> None:
        """A loop that must not die: what ends it otherwise is a defect, and the runner stops rather than limp on."""
        try:
            await part
        except Exception:
            logger.exception("a part of the runner failed; it stops")
            self.failed = True
            self.ending.set()
