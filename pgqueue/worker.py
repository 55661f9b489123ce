"""`Runner`: one process's worth of running tasks. `python -m pgqueue.runner` and a runner embedded in a program are both this.

It claims what its slots can take (lane), runs it (slots, executor), settles it (completer), and looks after the queue on the
side (maintenance, heart). Connections: one each for claiming, settling, upkeep and the heart, and a small pool for
`context.queue` and `context.transaction()`, opened only when a task uses it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import TracebackType
from typing import Any

import psycopg
from typing_extensions import Self

from pgqueue.client import AsyncQueue, Queue
from pgqueue.completer import Completer, Settlement
from pgqueue.context import Claimed, Context
from pgqueue.database import connection_parameters
from pgqueue.errors import ConfigurationError, PgQueueError
from pgqueue.executor import Executor
from pgqueue.heart import Heart, Identity, Pulse
from pgqueue.hooks import call_start_hooks, call_stop_hooks
from pgqueue.lane import Lane
from pgqueue.link import Link
from pgqueue.loops import drive
from pgqueue.maintenance import Promotion, Sweeps
from pgqueue.outcomes import Verdict
from pgqueue.prefetch import Prefetch
from pgqueue.processes import Processes, Setup
from pgqueue.readiness import check_schema, register_types
from pgqueue.registry import Registry
from pgqueue.requests import check_name
from pgqueue.settings import Settings
from pgqueue.slots import Slots
from pgqueue.statements import Call
from pgqueue.threads import Threads
from pgqueue.transactions import Transaction
from pgqueue.turns import Turns

logger = logging.getLogger("pgqueue.runner")
CLAIM_FAILURE_PAUSE_SECONDS = 0.2
FLUSH_SECONDS_MAX = 10.0
"""After the shutdown timeout, the settling of what was interrupted may take this much longer."""


@dataclass(frozen=True, slots=True)
class RunnerStats:
    """What a runner has done so far. processed counts settled attempts, failed those of them that failed; uptime in seconds."""

    id: uuid.UUID
    name: str
    status: str
    active: int
    processed: int
    failed: int
    lost_leases: int
    uptime: float


@dataclass(frozen=True, slots=True)
class Observer:
    """Whom to tell what happens, for a screen; called on the runner's loop, so it must be quick."""

    started: Callable[[Claimed], None] | None = None
    settled: Callable[[Settlement, bool], None] | None = None


class Runner:
    """Runs tasks until stopped: `async with Runner(queue): ...`, or `Runner(queue).run()`, which blocks.

    queues: names, or names with weights; None: all queues, later ones included. types: names; None: every registered type.
    concurrency: slots, default the setting's (10). drain: end once nothing is ready or running.
    """

    def __init__(
        self,
        queue: Queue | AsyncQueue | None = None,
        *,
        name: str | None = None,
        concurrency: int | None = None,
        queues: Sequence[str] | Mapping[str, int] | None = None,
        types: Iterable[str] | None = None,
        drain: bool = False,
        settings: Settings | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._client = queue if queue is not None else AsyncQueue(settings=settings)
        self.settings = settings or self._client.settings
        self.id = uuid.uuid4()
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self.concurrency = self.settings.concurrency if concurrency is None else concurrency
        if self.concurrency < 1:
            raise ConfigurationError(f"concurrency takes 1 or more, not {self.concurrency}")
        self._weights = _weights(queues)
        self._registry = self._client.registry
        self._types = _known_types(self._registry, types)
        self._drain = drain
        self._observer = observer or Observer()
        self._status = "new"
        self._started_at = 0.0
        self._processed = self._failed = 0
        self._finished: asyncio.Event | None = None

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def run(self) -> None:
        """Run until SIGTERM, SIGINT or, with `drain`, until nothing is left. A second signal stops at once.

        Raises what `start` raises. Takes the main thread's event loop and signals.
        """
        drive(self._run_until_signalled())

    async def start(self) -> None:
        """Connect (waiting for a server that is not there yet), register, and begin to claim.

        Raises ConfigurationError, SchemaError, DatabaseUnavailable.
        """
        if self._status != "new":
            raise PgQueueError("a runner is started once: make another one")
        self._status = "starting"
        dsn = await asyncio.to_thread(lambda: self._client.dsn)
        self._build(dsn)
        try:
            await self._claim_link.wait_until_up(timeout_seconds=self.settings.connect_timeout.total_seconds(), say=logger.warning)
            await check_schema(self._claim_link, self._sql)
            await register_types(self._claim_link, self._sql, [self._registry.get(name) for name in self._types])
            await call_start_hooks(self.resources)
        except BaseException:
            await self._close_links()
            raise
        self._heart.start()
        self._started_at, self._status = time.monotonic(), "running"
        self._tasks = [
            asyncio.create_task(self._watched(coroutine), name=f"pgqueue {name}")
            for name, coroutine in (
                ("claims", self._claim_forever()),
                ("promotion", self._promotion.run(self._stopping)),
                ("sweeps", self._sweeps.run(self._stopping)),
            )
        ]
        self._completing = asyncio.create_task(self._watched(self._completer.run()), name="pgqueue completer")
        logger.info("runner %s is ready: %s slots, %s types", self.name, self.concurrency, len(self._types))

    async def wait(self) -> None:
        """Wait until the runner has ended by itself (`drain`) or somebody has called `stop`."""
        await self._ending.wait()

    async def stop(self, timeout: float | None = None) -> None:
        """Claim no more, give back what was not started, finish what runs for up to `timeout` seconds (default: the setting's

        shutdown timeout), then interrupt the rest and give it back without spending an attempt. Harmless to repeat; a second
        call with a shorter timeout hurries the first.
        """
        if self._status in ("new", "stopped"):
            return
        seconds = self.settings.shutdown_timeout.total_seconds() if timeout is None else timeout
        self._hurry_at = min(self._hurry_at, time.monotonic() + seconds)
        if self._status == "stopping":
            self._hurried.set()
            await self._stopped.wait()
            return
        self._status = "stopping"
        await self._shut_down()

    def pause(self) -> None:
        """Claim no more; what runs goes on."""
        if self._status == "running":
            self._status = "paused"

    def resume(self) -> None:
        """Claim again."""
        if self._status == "paused":
            self._status = "running"
            self._turns.wake()
            self._look.set()

    def stats(self) -> RunnerStats:
        """A snapshot."""
        started = self._started_at
        return RunnerStats(
            id=self.id,
            name=self.name,
            status=self._status,
            active=self._slots.active_count if started else 0,
            processed=self._processed,
            failed=self._failed,
            lost_leases=self._completer.lost_lease_count if started else 0,
            uptime=time.monotonic() - started if started else 0.0,
        )

    # ── what an attempt may ask for (Services) ──────────────────────────────────────────────────────────────────────

    @property
    def runner_id(self) -> uuid.UUID:
        return self.id

    def transaction(self, context: Context, connection: Any) -> Transaction:
        if self._is_async(context):
            return Transaction(context, None, self._async_queue, connection)
        return Transaction(context, self._sync_queue, None, connection)

    def queue_of(self, context: Context) -> AsyncQueue | Queue:
        queue: AsyncQueue | Queue = self._async_queue if self._is_async(context) else self._sync_queue
        return queue if context.connection is None else queue.bound(context.connection)

    def _is_async(self, context: Context) -> bool:
        return self._registry.get(context.type).execution == "async"

    # ── building ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _build(self, dsn: str) -> None:
        settings, schema = self.settings, self._client.schema
        self._sql = self._client._sql
        self.resources: dict[str, Any] = {}
        self._async_queue = AsyncQueue(dsn, schema=schema, settings=settings, registry=self._registry)
        self._sync_queue = Queue(dsn, schema=schema, settings=settings, registry=self._registry)
        self._stopping, self._ending, self._stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._hurried, self._look, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._hurry_at = float("inf")
        self._loop = asyncio.get_running_loop()
        self._claim_link, settle_link, self._upkeep_link = (self._link(dsn, name) for name in ("claim", "settle", "upkeep"))
        self._sweep_link = self._upkeep_link
        self._settle_link = settle_link
        self._lane = Lane(self._sql, self._claim_link, runner_id=self.id, types=self._types)
        self._turns = Turns(self._weights, pause_max_seconds=settings.poll_interval.total_seconds())
        self._prefetch = Prefetch(concurrency=self.concurrency, limit=2 * settings.claim_limit)
        self._completer = Completer(self._sql, settle_link, runner_id=self.id, on_settled=self._on_settled, is_busy=lambda: self._slots.is_busy)
        self._threads = Threads(self.concurrency)
        self._processes = Processes(Setup(dsn, schema, self.id, settings.max_payload_bytes))
        self._executor = Executor(
            self._registry,
            threads=self._threads,
            processes=self._processes,
            undecodable_delay=settings.undecodable_delay,
            result_bytes_max=settings.max_payload_bytes,
        )
        self._slots = Slots(
            concurrency=self.concurrency,
            executor=self._executor,
            completer=self._completer,
            prefetch=self._prefetch,
            services=self,
            on_room=self._room.set,
            on_start=self._observer.started,
        )
        self._build_upkeep(dsn)

    def _build_upkeep(self, dsn: str) -> None:
        settings = self.settings
        self._promotion = Promotion(
            self._sql,
            self._upkeep_link,
            types=self._types,
            poll_seconds=settings.poll_interval.total_seconds(),
            queues=lambda: self._turns.queues,
            on_promoted=self._on_promoted,
            on_discovered=self._on_discovered if self._turns.discovers else None,
        )
        types = [self._registry.get(name) for name in self._types]
        retentions = {task_type.name: task_type.retention for task_type in types if task_type.retention is not None}
        self._sweep_link = self._link(dsn, "sweeps")
        self._sweeps = Sweeps(self._sql, self._sweep_link, settings, retentions)
        identity = Identity(
            id=self.id,
            name=self.name,
            kind="runner",
            host=socket.gethostname(),
            pid=os.getpid(),
            version=metadata.version("pgqueue-tasks"),
            app=settings.application(),
            queues=None if self._weights is None else list(self._weights),
            types=self._types,
            concurrency=self.concurrency,
        )
        pulse = Pulse(
            held_claims=self._slots.held_claims,
            running_count=lambda: self._slots.active_count,
            cancel=lambda requests: self._soon(self._cancel, requests),
            gave_back=lambda count: self._soon(self._turns.wake),
        )
        self._heart = Heart(
            dsn, self._sql, identity, pulse, lease=settings.lease, heartbeat=settings.heartbeat, deadline=settings.statement_deadline
        )

    def _link(self, dsn: str, name: str) -> Link:
        parameters = connection_parameters(dsn, lease=self.settings.lease)
        return Link(parameters, name=name, deadline_seconds=self.settings.statement_deadline.total_seconds())

    # ── claiming ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _claim_forever(self) -> None:
        """Claim for free slots and a little ahead, queue by queue in turn; sleep when there is nothing."""
        while not self._stopping.is_set():
            want = min(self._prefetch.request(self._slots.in_hand), self.settings.claim_limit)
            if want == 0:
                await self._wait_for(self._room, self.settings.poll_interval.total_seconds())
                continue
            if self._status == "paused" or not await self._claim_round(want):
                if self._drain and self._status == "running" and await self._is_drained():
                    self._ending.set()
                    return
                await self._wait_for(self._look, self._turns.pause(time.monotonic()))

    async def _claim_round(self, want: int) -> int:
        """One claim of each queue that is due. Returns how many tasks came. An outage is waited out."""
        total = 0
        for queue, share in self._turns.shares(want, time.monotonic()):
            try:
                batch = await self._lane.claim(queue, share)
            except (psycopg.Error, PgQueueError, OSError) as error:
                logger.warning("a claim failed, trying on: %s", str(error).strip().partition("\n")[0])
                await self._claim_link.drop()
                await self._wait_for(self._stopping, CLAIM_FAILURE_PAUSE_SECONDS)
                await self._claim_link.wait_until_up(stop=self._stopping)
                return total
            self._prefetch.observe_round_trip(self._lane.round_trip_seconds, time.monotonic())
            self._turns.found(queue, len(batch), time.monotonic())
            self._slots.offer(batch)
            total += len(batch)
            if self._stopping.is_set():
                break
        return total

    async def _wait_for(self, event: asyncio.Event, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return
        finally:
            if event is not self._stopping:
                event.clear()

    async def _is_drained(self) -> bool:
        """Nothing ready or running of our types in our queues, here or elsewhere."""
        if self._slots.in_hand:
            return False
        await self._completer.flushed()
        queues = None if self._weights is None else list(self._weights)
        try:
            rows = await self._claim_link.run(_single(self._sql.unfinished(queues=queues, types=self._types)))
        except (psycopg.Error, PgQueueError, OSError) as error:
            logger.warning("cannot see whether anything is left, trying on: %s", str(error).strip().partition("\n")[0])
            await self._claim_link.wait_until_up(stop=self._stopping)
            return False
        return not rows[0][0] and self._slots.in_hand == 0

    # ── what happens ────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_settled(self, settlement: Settlement, is_ours: bool) -> None:
        self._slots.settled(settlement)
        if is_ours and settlement.outcome.verdict is not Verdict.RETURNED:
            self._processed += 1
            self._failed += settlement.outcome.failure is not None
        if self._observer.settled is not None:
            self._observer.settled(settlement, is_ours)

    def _on_promoted(self, queue: str, keys: list[tuple[int, Any, str]]) -> None:
        for priority, maturity_at, id in keys:
            self._lane.retreat(queue, priority, maturity_at, id)
        self._turns.wake(queue)
        self._look.set()

    def _on_discovered(self, queues: list[str]) -> None:
        known = set(self._turns.queues)
        self._turns.discover(queues)
        if set(queues) - known:
            self._look.set()

    def _cancel(self, requests: list[tuple[str, str]]) -> None:
        for task_id, claim_id in requests:
            self._slots.cancel(task_id, claim_id)

    def _soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """From another thread: on our loop, if it still runs."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    async def _watched(self, coroutine: Any) -> None:
        """A loop that must not die: what ends it otherwise is a defect, and the runner stops rather than limp on."""
        try:
            await coroutine
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("a part of the runner failed; it stops")
            self._failure = True
            self._ending.set()

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run_until_signalled(self) -> None:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        stops: set[asyncio.Task[None]] = set()

        def on_signal(name: str) -> None:
            if not stops:
                logger.info("%s: finishing what runs (up to %g s); again to stop now", name, self.settings.shutdown_timeout.total_seconds())
            stops.add(asyncio.ensure_future(self.stop(timeout=0.0 if stops else None)))

        starting = asyncio.ensure_future(self.start())
        for number in signals:
            loop.add_signal_handler(number, starting.cancel)
        try:
            await starting
        except asyncio.CancelledError:
            return
        for number in signals:
            loop.add_signal_handler(number, on_signal, number.name)
        await self.wait()
        await (asyncio.gather(*stops) if stops else self.stop())
        if getattr(self, "_failure", False):
            raise PgQueueError("the runner stopped because a part of it failed; see the log")

    async def _shut_down(self) -> None:
        self._stopping.set()
        self._room.set()
        self._look.set()
        self._ending.set()
        # The claim that is under way must come in: what it took is ours to give back.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lane.give_back(self._slots.give_back())
        await self._wait_for_running()
        self._completer.close()
        await asyncio.wait([self._completing], timeout=FLUSH_SECONDS_MAX)
        self._completing.cancel()
        await asyncio.gather(self._completing, return_exceptions=True)
        self._threads.close()
        self._processes.close()
        try:
            await call_stop_hooks(self.resources)
        except Exception:
            logger.exception("a stop hook failed")
        await asyncio.to_thread(self._heart.stop)
        await self._close_links()
        self._status = "stopped"
        self._stopped.set()
        logger.info("runner %s has stopped: %s processed, %s failed", self.name, self._processed, self._failed)

    async def _wait_for_running(self) -> None:
        """Until what runs has ended, or the time for that is up; then interrupt it."""
        idle = asyncio.ensure_future(self._slots.idle())
        while not idle.done() and (left := self._hurry_at - time.monotonic()) > 0:
            hurried = asyncio.ensure_future(self._hurried.wait())
            await asyncio.wait([idle, hurried], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            self._hurried.clear()
        if not idle.done():
            logger.warning("interrupting %s tasks; they go back without spending an attempt", self._slots.interrupt())
            await asyncio.wait([idle], timeout=FLUSH_SECONDS_MAX)
        idle.cancel()

    async def _close_links(self) -> None:
        for link in (self._claim_link, self._settle_link, self._upkeep_link, self._sweep_link):
            await link.drop()
        await self._async_queue.close()
        await asyncio.to_thread(self._sync_queue.close)


def _weights(queues: Sequence[str] | Mapping[str, int] | None) -> dict[str, int] | None:
    if queues is None:
        return None
    if isinstance(queues, str):
        queues = [queues]
    weights = dict(queues) if isinstance(queues, Mapping) else {}.fromkeys(queues, 1)
    if not weights:
        raise ConfigurationError("queues takes names, or None for all of them; it is empty")
    for name, weight in weights.items():
        check_name(name, "queues")
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= 1_000:
            raise ConfigurationError(f"the weight of queue {name!r} takes a whole number from 1 to 1000, not {weight!r}")
    return weights


def _known_types(registry: Registry, types: Iterable[str] | None) -> list[str]:
    """Canonical names. A runner claims only types it knows, so that a rolling deploy never kills new ones."""
    names = registry.names() if types is None else [registry.get(name).name for name in types]
    if not names:
        raise ConfigurationError("no task types are registered: import the module that defines them, or name it with --tasks")
    return names


def _single(call: Call) -> Any:
    return (yield call)
