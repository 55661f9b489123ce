"""The parts of one runner, wired together, and what they tell each other. `Engine` (engine.py) gives them a life.

Connections: one each for every lane, scans, settling, promotion, sweeps, notices and upkeep, one for the heart where no
supervisor beats, and two pools for `context.queue` and `context.transaction()`, opened when first used, that grow up to the
number of slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pgqueue.aging import Agings
from pgqueue.assignment import LANES, Assignment, Observer, always_leased, identity, lanes_that_pay, least_batch_size, retentions
from pgqueue.board import Board
from pgqueue.calls import Calls
from pgqueue.claiming import Claiming
from pgqueue.completer import Completer, Settlement
from pgqueue.database import AsyncConnection, connection_parameters
from pgqueue.executor import Executor
from pgqueue.heart import Heart, HeartThread, Pulse
from pgqueue.lane import Lane
from pgqueue.link import Link
from pgqueue.listener import Listener
from pgqueue.maintenance import Promotion, Sweeps
from pgqueue.outcomes import Verdict
from pgqueue.paces import Paces
from pgqueue.policies import Policies
from pgqueue.prefetch import Prefetch
from pgqueue.processes import Processes, Setup
from pgqueue.quarantine import Quarantine
from pgqueue.records import QueueRecord
from pgqueue.registry import Registry
from pgqueue.scan import HeadScan
from pgqueue.services import RunnerServices
from pgqueue.settings import Settings
from pgqueue.slots import Slots
from pgqueue.statements import statements
from pgqueue.strangers import Strangers
from pgqueue.threads import Threads
from pgqueue.turns import Turns
from pgqueue.upkeep import Supervision, Upkeep, Upkept
from pgqueue.watermark import QueueWatermarks


class Parts:
    """Made on the event loop it runs on, once."""

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
        self._stopping = asyncio.Event()
        self.ending = asyncio.Event()
        """Set when there is nothing left to do: drained, or a part has failed."""
        self.failed = False
        self.processed_count = self.failed_count = 0
        self._taken_claim: str | None = None
        self._running: list[asyncio.Task[None]] = []
        self._keeping: asyncio.Task[None] | None = None
        self._completing: asyncio.Task[None] | None = None

        types = [registry.get(name) for name in assignment.types]
        names = ("scan", "settle", "promotion", "sweeps", "listener", "upkeep")
        scan, settle, promotion, sweeps, notices, upkeep = (self._link(dsn, name) for name in names)
        lanes = [self._link(dsn, f"lane {assignment.id}") for _ in range(LANES if assignment.patience_seconds > 0 else 1)]
        self._links = (*lanes, scan, settle, promotion, sweeps, upkeep, notices)
        self.board = Board.private(assignment.concurrency) if supervision is None else supervision.board
        self._claim_link = lanes[0]
        self._services = RunnerServices(
            dsn,
            assignment.id,
            concurrency=assignment.concurrency,
            settings=settings,
            schema=schema,
            registry=registry,
            on_owning=lambda name: self._paces.lease_always(name),
        )
        self._policies = Policies(registry, assignment.types)
        self._watermarks = QueueWatermarks()
        self._agings = Agings()
        self._paces = Paces(assignment.types, patience_seconds=assignment.patience_seconds, leased=always_leased(types))
        self._turns = Turns(assignment.weights, pause_max_seconds=settings.poll_interval.total_seconds())
        self._prefetch = Prefetch(
            concurrency=assignment.concurrency, limit=2 * settings.claim_limit, width=least_batch_size(types)
        )
        self._threads = Threads(assignment.concurrency)
        self._processes = Processes(Setup(dsn, schema, assignment.id, settings.max_payload_bytes))
        self.completer = Completer(
            self._sql, settle, runner_id=assignment.id, on_settled=self._on_settled, is_busy=lambda: self.slots.is_busy
        )
        self.slots = Slots(
            concurrency=assignment.concurrency,
            executor=Executor(
                self._policies.registry,
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
            paces=self._paces if assignment.patience_seconds > 0 else None,
            calls=Calls(
                self._policies.registry,
                assignment.types,
                threads=self._threads,
                board=self.board,
                undecodable_delay=settings.undecodable_delay,
                result_bytes_max=settings.max_payload_bytes,
            ),
            order=self._agings.order,
            on_room=lambda: self._claiming.look(),
            on_start=observer.started,
        )
        self._listener: Listener | None = None
        if settings.listen:
            self._listener = Listener(self._sql, notices, on_notice=self._on_notice, on_listening=self._on_listening)
        self._claiming = Claiming(
            [(self._lane(link), link) for link in lanes],
            turns=self._turns,
            prefetch=self._prefetch,
            slots=self.slots,
            completer=self.completer,
            paces=self._paces,
            claim_limit=settings.claim_limit,
            poll_seconds=settings.poll_interval.total_seconds(),
            lane_count=lambda: lanes_that_pay(self.board.peers),
            is_drained=self._is_drained if assignment.drain else None,
            on_settled=self._tell,
            listener=self._listener,
            run_alone=self._run_alone if supervision is None else None,
            on_lane=self.board.lane_open_since,
        )
        self._promotion = Promotion(
            self._sql,
            promotion,
            types=assignment.types,
            poll_seconds=settings.poll_interval.total_seconds(),
            queues=lambda: self._turns.queues,
            on_promoted=self._on_promoted,
            on_discovered=self._on_discovered,
            listener=self._listener,
        )
        self._scan = self._head_scan(scan)
        self._sweeps = Sweeps(self._sql, sweeps, settings, retentions(types))
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
            self._claim_link,
            runner_id=assignment.id,
            types=self._policies.claimable,
            queues=None if assignment.weights is None else list(assignment.weights),
            offer=self.slots.offer,
            idle=self.slots.idle,
        )
        self._heart = None if supervision is not None else self._own_heart(dsn)

    def _link(self, dsn: str, name: str) -> Link:
        parameters = connection_parameters(dsn, lease=self._settings.lease)
        return Link(parameters, name=name, deadline_seconds=self._settings.statement_deadline.total_seconds())

    def _lane(self, link: Link) -> Lane:
        return Lane(
            self._sql,
            link,
            runner_id=self._assignment.id,
            types=self._policies.claimable,
            watermarks=self._watermarks,
            agings=self._agings,
            patience_seconds=self._assignment.patience_seconds,
            limits=self._lane_limits,
        )

    def _head_scan(self, link: Link) -> HeadScan:
        types, watermarks = self._policies.claimable, self._watermarks
        delay = self._settings.unknown_type_delay
        return HeadScan(
            self._sql,
            link,
            runner_id=self._assignment.id,
            types=types,
            watermarks=watermarks,
            agings=self._agings,
            queues=lambda: self._turns.queues,
            strangers=Strangers(self._sql, link, types=types, delay=delay, watermarks=watermarks, on_ready=self._on_ready),
            room=self._room,
            on_claimed=self.slots.offer,
            on_ready=self._on_ready,
        )

    def _room(self) -> int | None:
        """How many tasks a scan may claim; None: none at all."""
        is_alone = self._assignment.suspects_only or self._quarantine.is_busy
        if self.paused or is_alone or self._stopping.is_set():
            return None
        return self._prefetch.room(self.slots.in_hand, self.slots.free_count)

    def _lane_limits(self, connection: AsyncConnection) -> dict[str, str]:
        """A lane's transaction must not outlive the lease, whatever became of its holder."""
        milliseconds = str(int(self._settings.lease.total_seconds() * 1000))
        limits = {"idle_in_transaction_session_timeout": milliseconds}
        if connection.info.server_version >= 170000:
            limits["transaction_timeout"] = milliseconds
        return limits

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

        return HeartThread(make, Pulse(identity(self._assignment, settings), running_count=lambda: self.slots.active_count))

    def _note_peers(self, count: int) -> None:
        self.board.peers = count

    def _upkept(self) -> Upkept:
        return Upkept(
            held_claims=self._held_claims,
            running_count=lambda: self.slots.active_count,
            processed_count=lambda: self.processed_count,
            types=self._assignment.types,
            learn=self._on_policies,
            cancel=self._cancel,
            gave_back=lambda count: self.wake(),
        )

    def _held_claims(self) -> list[str]:
        """What is in hand, and what may be on its way."""
        asked = (self._quarantine.in_flight, self._scan.in_flight, self._taken_claim)
        in_flight = [*self._claiming.in_flight(), *(claim for claim in asked if claim is not None)]
        return [*self.slots.held_claims(), *in_flight]

    @property
    def paused(self) -> bool:
        """Whether it claims no more for the time being."""
        return self._claiming.paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._claiming.paused = paused

    def wake(self) -> None:
        """Look at the queues now."""
        self._turns.wake()
        self._scan.hurry()
        self._claiming.look()

    async def _run_alone(self) -> bool:
        """Run a suspect in this very process, where no supervisor has another one for it and nothing else is in hand.

        False: there was none.
        """
        return self.slots.in_hand == 0 and await self._quarantine.run_one_now_and_then(self._stopping)

    async def _is_drained(self) -> bool:
        """Nothing ready or running of the types that we may claim in our queues, here or elsewhere."""
        if self.slots.in_hand:
            return False
        await self.completer.flushed()
        weights = self._assignment.weights
        rows = await self._claim_link.rows(
            self._sql.unfinished(queues=None if weights is None else list(weights), types=self._policies.claimable)
        )
        return not rows[0][0] and self.slots.in_hand == 0

    # ── what happens ────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_settled(self, settlement: Settlement, is_ours: bool) -> None:
        self.slots.settled(settlement)
        self._tell(settlement, is_ours)

    def _tell(self, settlement: Settlement, is_ours: bool) -> None:
        outcome = settlement.outcome
        if is_ours and outcome.verdict is not Verdict.RETURNED:
            self.processed_count += 1
            self.failed_count += outcome.failure is not None
        if is_ours and outcome.verdict in (Verdict.RETRIED, Verdict.SNOOZED):
            self._promotion.expect(settlement.claimed.queue, outcome.delay_seconds)
        if self._observer.settled is not None:
            self._observer.settled(settlement, is_ours)

    def _on_promoted(self, queue: str, keys: list[tuple[int, Any, str]]) -> None:
        for priority, maturity_at, id in keys:
            self._watermarks[queue].retreat(priority, maturity_at, id)
        self._on_ready(queue)

    def _on_ready(self, queue: str) -> None:
        self._turns.wake(queue)
        self._claiming.look()

    def _on_notice(self, queue: str) -> None:
        """A task of this queue is ready, or due soon: as it stands in the notice, which anybody may send."""
        if queue in self._turns.queues:
            self._on_ready(queue)
        elif not self._turns.discovers:
            return
        self._promotion.look(queue)

    def _on_listening(self) -> None:
        self._turns.hasten()
        self._promotion.look()
        self._claiming.look()

    def _on_discovered(self, queues: list[QueueRecord]) -> None:
        self._agings.learn(queues)
        names = [queue.name for queue in queues if queue.has_tasks]
        if self._turns.discovers and set(names) - set(self._turns.queues):
            self._turns.discover(names)
            self._claiming.look()

    def _on_policies(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """What operators say about our types. Tasks of an enabled one may lie behind the watermarks, which passed them by."""
        if self._policies.learn(row[:3] for row in rows):
            for watermarks in self._watermarks.values():
                watermarks.restart()
            self._scan.start_over()
            self.wake()

    def _cancel(self, requests: Sequence[tuple[str, str]]) -> None:
        for task_id, claim_id in requests:
            self.slots.cancel(task_id, claim_id)

    def _soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """From another thread: on our loop, if it still runs."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)
