"""The engine of one runner: its parts, wired together, and the loop that claims.

Lane and slots, executor and completer carry a task from claim to history; promotion, sweeps and heart look after the queue on
the side. `Runner` (worker.py) gives it a life: start, pause, stop, signals. Connections: one each for claiming, settling,
promotion, sweeps and upkeep, one for the heart where no supervisor beats, and two pools for `context.queue` and
`context.transaction()`, opened when first used, that grow up to the number of slots.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import psycopg

from pgqueue.board import Board
from pgqueue.completer import Completer, Settlement
from pgqueue.context import Claimed
from pgqueue.database import connection_parameters
from pgqueue.errors import PgQueueError
from pgqueue.executor import Executor
from pgqueue.heart import Heart, HeartThread, Identity, Pulse
from pgqueue.hooks import call_start_hooks, call_stop_hooks
from pgqueue.inheritance import settle_outstayed, take_over
from pgqueue.lane import Lane
from pgqueue.link import Link
from pgqueue.maintenance import Promotion, Sweeps
from pgqueue.outcomes import Verdict
from pgqueue.prefetch import Prefetch
from pgqueue.processes import Processes, Setup
from pgqueue.quarantine import Quarantine
from pgqueue.readiness import check_schema, register_types
from pgqueue.registry import Registry
from pgqueue.services import RunnerServices
from pgqueue.settings import Settings
from pgqueue.slots import Slots
from pgqueue.statements import statements
from pgqueue.threads import Threads
from pgqueue.turns import Turns
from pgqueue.upkeep import Supervision, Upkeep, Upkept

logger = logging.getLogger("pgqueue.runner")
FAILURE_PAUSE_SECONDS = 0.2
"""After a failed claim: an error that persists must not spin."""
FLUSH_SECONDS_MAX = 10.0
"""At the end, the settling of what was interrupted may take this long."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one runner is to do. `weights` None: all queues, later ones included; `types` are canonical names.

    `suspects_only`: run the tasks that crashed their process before, one at a time, until none is left.
    """

    id: uuid.UUID
    name: str
    concurrency: int
    weights: dict[str, int] | None
    types: list[str]
    drain: bool
    suspects_only: bool = False


@dataclass(frozen=True, slots=True)
class Observer:
    """Whom to tell what happens, for a screen; called on the runner's loop, so it must be quick."""

    started: Callable[[Claimed], None] | None = None
    settled: Callable[[Settlement, bool], None] | None = None


class Engine:
    """Made on the event loop it runs on, once. `prepare`, `start`, then wait for `ending`, then `finish`."""

    def __init__(
        self,
        dsn: str,
        assignment: Assignment,
        *,
        settings: Settings,
        schema: str,
        registry: Registry,
        observer: Observer,
        supervision: Supervision | None = None,
    ) -> None:
        self._assignment = assignment
        self._settings = settings
        self._registry = registry
        self._observer = observer
        self._supervision = supervision
        self._sql = statements(schema)
        self._loop = asyncio.get_running_loop()
        self._stopping, self._look, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.ending = asyncio.Event()
        """Set when there is nothing left to do: drained, or a part has failed."""
        self.failed = False
        self.paused = False
        self.processed_count = self.failed_count = 0
        self._taken_claim: str | None = None
        self._running: list[asyncio.Task[None]] = []
        self._keeping: asyncio.Task[None] | None = None
        self._completing: asyncio.Task[None] | None = None

        names = (f"claim {assignment.id}", "settle", "promotion", "sweeps", "upkeep")
        self._links = claim, settle, promotion, sweeps, upkeep = tuple(self._link(dsn, name) for name in names)
        self.board = Board.private(assignment.concurrency) if supervision is None else supervision.board
        self._claim_link = claim
        self._services = RunnerServices(
            dsn, assignment.id, concurrency=assignment.concurrency, settings=settings, schema=schema, registry=registry
        )
        self._lane = Lane(self._sql, claim, runner_id=assignment.id, types=assignment.types)
        self._turns = Turns(assignment.weights, pause_max_seconds=settings.poll_interval.total_seconds())
        self._prefetch = Prefetch(concurrency=assignment.concurrency, limit=2 * settings.claim_limit)
        self._threads = Threads(assignment.concurrency)
        self._processes = Processes(Setup(dsn, schema, assignment.id, settings.max_payload_bytes))
        self.completer = Completer(
            self._sql, settle, runner_id=assignment.id, on_settled=self._on_settled, is_busy=lambda: self.slots.is_busy
        )
        self.slots = Slots(
            concurrency=assignment.concurrency,
            executor=Executor(
                registry,
                threads=self._threads,
                processes=self._processes,
                board=self.board,
                undecodable_delay=settings.undecodable_delay,
                result_bytes_max=settings.max_payload_bytes,
            ),
            completer=self.completer,
            prefetch=self._prefetch,
            services=self._services,
            board=self.board,
            on_room=self._room.set,
            on_start=observer.started,
        )
        self._promotion = Promotion(
            self._sql,
            promotion,
            types=assignment.types,
            poll_seconds=settings.poll_interval.total_seconds(),
            queues=lambda: self._turns.queues,
            on_promoted=self._on_promoted,
            on_discovered=self._on_discovered if self._turns.discovers else None,
        )
        self._sweeps = Sweeps(self._sql, sweeps, settings, self._retentions())
        self._upkeep = Upkeep(
            self._sql,
            upkeep,
            self._upkept(),
            self.board,
            runner_id=assignment.id,
            heartbeat=settings.heartbeat,
            deadline=settings.statement_deadline,
        )
        self._upkeep_link = upkeep
        self._quarantine = Quarantine(
            self._sql,
            claim,
            runner_id=assignment.id,
            types=assignment.types,
            queues=None if assignment.weights is None else list(assignment.weights),
            offer=self.slots.offer,
            idle=self.slots.idle,
        )
        self._heart = None if supervision is not None else self._own_heart(dsn)

    def _link(self, dsn: str, name: str) -> Link:
        parameters = connection_parameters(dsn, lease=self._settings.lease)
        return Link(parameters, name=name, deadline_seconds=self._settings.statement_deadline.total_seconds())

    def _retentions(self) -> dict[str, Any]:
        types = [self._registry.get(name) for name in self._assignment.types]
        return {task_type.name: task_type.retention for task_type in types if task_type.retention is not None}

    def _identity(self) -> Identity:
        assignment = self._assignment
        return Identity(
            id=assignment.id,
            name=assignment.name,
            kind="runner",
            host=socket.gethostname(),
            pid=os.getpid(),
            version=metadata.version("pgqueue-tasks"),
            app=self._settings.application(),
            queues=None if assignment.weights is None else list(assignment.weights),
            types=assignment.types,
            concurrency=assignment.concurrency,
        )

    def _own_heart(self, dsn: str) -> HeartThread:
        """Without a supervisor a thread has to beat."""
        settings = self._settings

        def make() -> Heart:
            return Heart(
                dsn,
                self._sql,
                lease=settings.lease,
                heartbeat=settings.heartbeat,
                deadline=settings.statement_deadline,
                max_crashes=settings.max_crashes,
                on_rescued=lambda count: self._soon(self._turns.wake),
                on_peers=self._note_peers,
            )

        return HeartThread(make, Pulse(self._identity(), running_count=lambda: self.slots.active_count))

    def _note_peers(self, count: int) -> None:
        self.board.peers = count

    def _upkept(self) -> Upkept:
        return Upkept(
            held_claims=self._held_claims,
            running_count=lambda: self.slots.active_count,
            processed_count=lambda: self.processed_count,
            cancel=self._cancel,
            gave_back=lambda count: self._turns.wake(),
        )

    def _held_claims(self) -> list[str]:
        """What is in hand, and what may be on its way."""
        in_flight = (self._lane.in_flight, self._quarantine.in_flight, self._taken_claim)
        return [*self.slots.held_claims(), *(claim for claim in in_flight if claim is not None)]

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def prepare(self) -> None:
        """Connect (waiting for a server that is not there yet, and saying so), check the schema, register, run the hooks."""
        timeout = self._settings.connect_timeout.total_seconds()
        await self._claim_link.wait_until_up(timeout_seconds=timeout, say=logger.warning)
        await check_schema(self._claim_link, self._sql)
        await register_types(self._claim_link, self._sql, [self._registry.get(name) for name in self._assignment.types])
        await call_start_hooks(self._services.resources)
        await self._take_over()

    async def _take_over(self) -> None:
        """What the child before us was killed over has failed: settle it so."""
        if self._supervision is None:
            return
        taken = await take_over(self._upkeep_link, self._sql, self._supervision, runner_id=self._assignment.id)
        for claimed in taken:
            self._taken_claim = claimed.claim_id
            self.completer.add(settle_outstayed(claimed, self._registry, self._services, self._settings.undecodable_delay))

    def start(self) -> None:
        """Begin to beat, to claim and to settle."""
        if self._heart is not None:
            self._heart.start()
        self._keeping = asyncio.create_task(self._watched(self._upkeep.run()), name="pgqueue upkeep")
        parts = {
            "claims": self._claim_forever(),
            "promotion": self._promotion.run(self._stopping),
            "sweeps": self._sweeps.run(self._stopping),
        }
        self._running = [asyncio.create_task(self._watched(part), name=f"pgqueue {name}") for name, part in parts.items()]
        self._completing = asyncio.create_task(self._watched(self.completer.run()), name="pgqueue completer")

    def wake(self) -> None:
        """Look at the queues now."""
        self._turns.wake()
        self._look.set()

    async def stop_claiming(self) -> None:
        """Claim no more; what was claimed and not started goes back."""
        self._stopping.set()
        self._room.set()
        self._look.set()
        # The claim that is under way must come in: what it took is ours to give back.
        await asyncio.gather(*self._running, return_exceptions=True)
        self._lane.give_back(self.slots.give_back())

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

    async def _claim_forever(self) -> None:
        """Claim for free slots and a little ahead, queue by queue in turn; sleep when there is nothing."""
        if self._assignment.suspects_only:
            while not self._stopping.is_set() and await self._run_suspect():
                pass
            self.ending.set()
            return
        while not self._stopping.is_set():
            want = min(self._prefetch.request(self.slots.in_hand), self._settings.claim_limit)
            if want == 0:
                await _wait(self._room, self._settings.poll_interval.total_seconds())
            elif self.paused:
                await _wait(self._look, self._settings.poll_interval.total_seconds())
            elif not await self._claim_round(want) and not (self._is_alone and await self._run_suspect()):
                if self._assignment.drain and await self._is_drained():
                    self.ending.set()
                    return
                await _wait(self._look, self._turns.pause(time.monotonic()))

    async def _claim_round(self, want: int) -> int:
        """One claim of each queue that is due. Returns how many tasks came. An outage is waited out."""
        total = 0
        for queue, share in self._turns.shares(want, time.monotonic()):
            try:
                batch = await self._lane.claim(queue, share)
            except (psycopg.Error, PgQueueError, OSError) as error:
                await self._wait_out(error, "a claim failed")
                return total
            self._prefetch.observe_round_trip(self._lane.round_trip_seconds, time.monotonic())
            self._turns.found(queue, len(batch), time.monotonic())
            self.slots.offer(batch)
            total += len(batch)
            if self._stopping.is_set():
                break
        return total

    @property
    def _is_alone(self) -> bool:
        """Whether a suspect may run in this very process, as no supervisor has another one for it and nothing else is in hand."""
        return self._supervision is None and self.slots.in_hand == 0

    async def _run_suspect(self) -> bool:
        """Run a task that crashed its process before, and claim nothing else meanwhile. False: there is none."""
        run = self._quarantine.run_one if self._assignment.suspects_only else self._quarantine.run_one_now_and_then
        try:
            return await run(self._stopping)
        except (psycopg.Error, PgQueueError, OSError) as error:
            await self._wait_out(error, "a look for suspects failed")
            return False

    async def _is_drained(self) -> bool:
        """Nothing ready or running of our types in our queues, here or elsewhere."""
        if self.slots.in_hand:
            return False
        await self.completer.flushed()
        weights = self._assignment.weights
        try:
            rows = await self._claim_link.rows(
                self._sql.unfinished(queues=None if weights is None else list(weights), types=self._assignment.types)
            )
        except (psycopg.Error, PgQueueError, OSError) as error:
            await self._wait_out(error, "cannot see whether anything is left")
            return False
        return not rows[0][0] and self.slots.in_hand == 0

    async def _wait_out(self, error: BaseException, what: str) -> None:
        logger.warning("%s, trying on: %s", what, str(error).strip().partition("\n")[0])
        await self._claim_link.drop()
        await _wait(self._stopping, FAILURE_PAUSE_SECONDS, clear=False)
        await self._claim_link.wait_until_up(stop=self._stopping)

    # ── what happens ────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_settled(self, settlement: Settlement, is_ours: bool) -> None:
        self.slots.settled(settlement)
        outcome = settlement.outcome
        if is_ours and outcome.verdict is not Verdict.RETURNED:
            self.processed_count += 1
            self.failed_count += outcome.failure is not None
        if is_ours and outcome.verdict in (Verdict.RETRIED, Verdict.SNOOZED):
            self._promotion.expect(outcome.delay_seconds)
        if self._observer.settled is not None:
            self._observer.settled(settlement, is_ours)

    def _on_promoted(self, queue: str, keys: list[tuple[int, Any, str]]) -> None:
        for priority, maturity_at, id in keys:
            self._lane.retreat(queue, priority, maturity_at, id)
        self._turns.wake(queue)
        self._look.set()

    def _on_discovered(self, queues: list[str]) -> None:
        if set(queues) - set(self._turns.queues):
            self._turns.discover(queues)
            self._look.set()

    def _cancel(self, requests: Sequence[tuple[str, str]]) -> None:
        for task_id, claim_id in requests:
            self.slots.cancel(task_id, claim_id)

    def _soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """From another thread: on our loop, if it still runs."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    async def _watched(self, part: Coroutine[Any, Any, None]) -> None:
        """A loop that must not die: what ends it otherwise is a defect, and the runner stops rather than limp on."""
        try:
            await part
        except Exception:
            logger.exception("a part of the runner failed; it stops")
            self.failed = True
            self.ending.set()


async def _wait(event: asyncio.Event, seconds: float, *, clear: bool = True) -> None:
    """Until the event, or for so long."""
    try:
        await asyncio.wait_for(event.wait(), max(seconds, 0.0))
    except TimeoutError:
        await asyncio.sleep(0)
    finally:
        if clear:
            event.clear()
