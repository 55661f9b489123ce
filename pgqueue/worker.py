"""`Runner`: a process's worth of running tasks, as an object. `python -m pgqueue.runner` and a runner embedded in somebody's
program are both this; the work itself is done by the engine (engine.py)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from pgqueue.assignment import Assignment, Observer
from pgqueue.client import AsyncQueue, Queue
from pgqueue.engine import FLUSH_SECONDS_MAX, Engine
from pgqueue.errors import ConfigurationError, PgQueueError
from pgqueue.loops import drive
from pgqueue.registry import Registry
from pgqueue.requests import check_name
from pgqueue.settings import Settings
from pgqueue.upkeep import Supervision

__all__ = ["Observer", "Runner", "RunnerStats"]

logger = logging.getLogger("pgqueue.runner")
WEIGHT_MAX = 1_000


@dataclass(frozen=True, slots=True)
class RunnerStats:
    """What a runner has done so far. processed counts settled attempts, failed those of them that failed; uptime in seconds.

    failed_hooks: hooks of tasks that raised or did not end in time.
    """

    id: uuid.UUID
    name: str
    status: str
    active: int
    processed: int
    failed: int
    lost_leases: int
    failed_hooks: int
    uptime: float


class Runner:
    """Runs tasks until stopped: `async with Runner(queue): ...`, or `Runner(queue).run()`, which blocks.

    queues: names, or names with weights; None: all queues, later ones included. types: names; None: every registered type.
    concurrency: slots, default the setting's (10). drain: end once nothing is ready or running. The rest is for the child of a
    supervisor: what they share, the id it beats for, and whether it runs suspects alone.
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
        patience: timedelta = timedelta(0),
        supervision: Supervision | None = None,
        suspects_only: bool = False,
        id: uuid.UUID | None = None,
    ) -> None:
        self._client = queue if queue is not None else AsyncQueue(settings=settings)
        self.settings = settings or self._client.settings
        concurrency = self.settings.concurrency if concurrency is None else concurrency
        if concurrency < 1:
            raise ConfigurationError(f"concurrency takes 1 or more, not {concurrency}")
        self._assignment = Assignment(
            id=id or uuid.uuid4(),
            name=name or f"{socket.gethostname()}-{os.getpid()}",
            concurrency=concurrency,
            weights=_weights(queues),
            types=_known_types(self._client.registry, types),
            drain=drain,
            patience_seconds=patience.total_seconds(),
            suspects_only=suspects_only,
        )
        self._supervision = supervision
        self._observer = observer or Observer()
        self._engine: Engine | None = None
        self._starting: asyncio.Future[Engine] | None = None
        self._stop_asked = False
        self._status = "new"
        self._started_at: float | None = None
        self._hurry_at = float("inf")
        self._hurried = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def id(self) -> uuid.UUID:
        return self._assignment.id

    @property
    def has_failed(self) -> bool:
        """Whether it stopped because a part of it failed."""
        return self._engine is not None and self._engine.failed

    @property
    def name(self) -> str:
        return self._assignment.name

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

        Raises ConfigurationError, SchemaError, DatabaseUnavailable; PgQueueError when `stop` was called meanwhile.
        """
        if self._status != "new":
            raise PgQueueError("a runner is started once: make another one")
        self._status = "starting"
        self._starting = asyncio.ensure_future(self._prepared())
        engine: Engine | None = None
        try:
            engine = await self._starting
            if self._stop_asked:  # too late to be cancelled
                await engine.close()
                raise asyncio.CancelledError
        except BaseException as error:
            self._status = "stopped"
            self._stopped.set()
            if not (self._stop_asked and isinstance(error, asyncio.CancelledError)):
                raise
            engine = None
        finally:
            self._starting = None
        if engine is None:
            # Outside of the handler: the cancellation's traceback would hold on to a half-open connection.
            raise PgQueueError("the runner was stopped before it had started")
        engine.start()
        self._engine, self._started_at, self._status = engine, time.monotonic(), "running"
        logger.info(
            "runner %s is ready: %s slots, %s types", self.name, self._assignment.concurrency, len(self._assignment.types)
        )

    async def _prepared(self) -> Engine:
        """The engine, connected and registered, or closed again."""
        client = self._client
        dsn = await asyncio.to_thread(lambda: client.dsn)
        engine = Engine(
            dsn,
            self._assignment,
            settings=self.settings,
            schema=client.schema,
            registry=client.registry,
            observer=self._observer,
            supervision=self._supervision,
        )
        try:
            await engine.prepare()
        except BaseException:
            await engine.close()
            raise
        return engine

    async def wait(self) -> None:
        """Wait until the runner has ended by itself (`drain`), or somebody has stopped it."""
        ending = asyncio.ensure_future(self._running().ending.wait())
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait([ending, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            stopped.cancel()

    async def stop(self, timeout: float | None = None) -> None:
        """Claim no more, give back what was not started, and finish what runs for up to `timeout` seconds (None: the setting's
        shutdown timeout); then interrupt the rest and give it back without spending an attempt.

        Harmless to repeat; another call with a shorter timeout hurries the first.
        """
        if self._status in ("new", "stopped"):
            return
        if self._status == "starting" and self._starting is not None:
            self._stop_asked = True
            self._starting.cancel()
            await self._stopped.wait()
            return
        seconds = self.settings.shutdown_timeout.total_seconds() if timeout is None else timeout
        self._hurry_at = min(self._hurry_at, time.monotonic() + seconds)
        if self._status == "stopping":
            self._hurried.set()
            await self._stopped.wait()
            return
        self._status = "stopping"
        engine = self._running()
        await engine.stop_claiming()
        await self._finish_running(engine)
        await engine.finish()
        self._status = "stopped"
        self._stopped.set()
        logger.info("runner %s has stopped: %s processed, %s failed", self.name, engine.processed_count, engine.failed_count)

    def pause(self) -> None:
        """Claim no more; what was claimed goes on."""
        if self._status == "running":
            self._status = "paused"
            self._running().paused = True

    def resume(self) -> None:
        """Claim again."""
        if self._status == "paused":
            self._status = "running"
            engine = self._running()
            engine.paused = False
            engine.wake()

    def stats(self) -> RunnerStats:
        """A snapshot."""
        engine, started_at = self._engine, self._started_at
        return RunnerStats(
            id=self.id,
            name=self.name,
            status=self._status,
            active=0 if engine is None else engine.slots.active_count,
            processed=0 if engine is None else engine.processed_count,
            failed=0 if engine is None else engine.failed_count,
            lost_leases=0 if engine is None else engine.completer.lost_lease_count,
            failed_hooks=0 if engine is None else engine.reactions.failed_count,
            uptime=0.0 if started_at is None else time.monotonic() - started_at,
        )

    def _running(self) -> Engine:
        if self._engine is None:
            raise PgQueueError("the runner has not been started")
        return self._engine

    async def _finish_running(self, engine: Engine) -> None:
        """Until what runs has ended, or the time for that is up; then interrupt it."""
        idle = asyncio.ensure_future(engine.slots.idle())
        while not idle.done() and (left := self._hurry_at - time.monotonic()) > 0:
            hurried = asyncio.ensure_future(self._hurried.wait())
            await asyncio.wait([idle, hurried], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            self._hurried.clear()
        if engine.slots.active_count:
            logger.warning("interrupting %s tasks; they go back without spending an attempt", engine.slots.interrupt())
            await asyncio.wait([idle], timeout=FLUSH_SECONDS_MAX)
        idle.cancel()

    async def _run_until_signalled(self) -> None:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        stops: list[asyncio.Future[None]] = []

        def on_signal(name: str) -> None:
            seconds = self.settings.shutdown_timeout.total_seconds()
            if not stops:
                logger.info("%s: finishing what runs, for up to %g s; a second signal stops at once", name, seconds)
            stops.append(asyncio.ensure_future(self.stop(timeout=0.0 if stops else None)))

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
        await self.stop()
        await asyncio.gather(*stops)
        if self.has_failed:
            raise PgQueueError("the runner stopped because a part of it failed; see the log")


def _weights(queues: Sequence[str] | Mapping[str, int] | None) -> dict[str, int] | None:
    if queues is None:
        return None
    named = [queues] if isinstance(queues, str) else queues
    weights: dict[str, Any] = dict(named) if isinstance(named, Mapping) else dict.fromkeys(named, 1)
    if not weights:
        raise ConfigurationError("queues takes names, or None for all of them; it is empty")
    for name, weight in weights.items():
        check_name(name, "queues")
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= WEIGHT_MAX:
            raise ConfigurationError(f"the weight of queue {name!r} takes a whole number from 1 to {WEIGHT_MAX}, not {weight!r}")
    return weights


def _known_types(registry: Registry, types: Iterable[str] | None) -> list[str]:
    """Canonical names. A runner claims only types it knows, so that a rolling deploy never kills new ones."""
    names = registry.names() if types is None else [registry.get(name).name for name in types]
    if not names:
        raise ConfigurationError("no task types are registered: import the module that defines them, or name it with --tasks")
    return names
