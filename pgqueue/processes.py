"""Processes for `executor="process"`: work that holds the CPU, and that can be killed.

Each worker process runs one attempt at a time: it decodes the payload, runs the task, decides about a retry, and sends back an
`Outcome`. It is started by spawn when first needed and kept for the next task; a cancelled or overdue one is killed.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any

from pgqueue import payload
from pgqueue.context import Claimed, Context
from pgqueue.definition import TaskType
from pgqueue.errors import PgQueueError
from pgqueue.journal import Journal, Line, TaskLog
from pgqueue.layers import Layers
from pgqueue.outcomes import SETTLED, Outcome
from pgqueue.task import Task
from pgqueue.task_hooks import hooks_of

logger = logging.getLogger("pgqueue.processes")
JOIN_SECONDS = 5.0
START_SECONDS_MAX = 60.0
LINES_PAUSE_SECONDS = 0.2
READY, TAKEN = "ready", "taken"
"""What a worker process says before its answer: that it has started, and that it has taken a job."""


class ProcessDied(PgQueueError):
    """The process that ran a task ended in the middle of it."""


class ErrorInProcess(PgQueueError):
    """Stands for what a task raised in a process, where that cannot be sent to another: its type and message."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker process needs to know, all of it plain values."""

    dsn: str
    schema: str
    runner_id: uuid.UUID
    result_bytes_max: int
    modules: tuple[str, ...] = ()
    """To import before the first attempt: where the middleware of all types was written."""
    log_lines: int = 1_000
    log_characters: int = 4_000
    """How much an attempt may log."""


@dataclass(frozen=True, slots=True)
class _Job:
    module: str
    type: str
    row: tuple[Any, ...]
    overrides: Mapping[str, Any] | None
    """What operators have set of the type: the retry decision is made over there."""
    reports: bool = False
    """Whether hooks want to know more than the outcome."""


@dataclass(frozen=True, slots=True)
class _Report:
    """An outcome, with what hooks are called with: the pickled exception; the result (JSON) that a transaction completed with."""

    outcome: Outcome
    error: bytes | None
    completion: str | None


@dataclass(frozen=True, slots=True)
class _Lines:
    """What a task has logged. `are_last`: its attempt has ended."""

    lines: list[Line]
    are_last: bool


class Processes:
    """Worker processes, as many as there are attempts that need one at a time. `on_lines` gets what their tasks log."""

    def __init__(self, setup: Setup, *, on_lines: Callable[[list[Line], bool], None]) -> None:
        self._setup = setup
        self._on_lines = on_lines
        self._idle: list[_Worker] = []
        self._closed = False

    async def run(
        self,
        task_type: TaskType[Any],
        context: Context,
        limited: AbstractAsyncContextManager[None],
        *,
        reports: bool = False,
    ) -> Outcome:
        """Run one attempt over there, `limited` from when a process has taken it: to start one may take longer than the task.

        `reports`: for hooks, leave in the context what the attempt raised, or its result. Cancelling the wait kills the process.
        Raises ProcessDied when it ends by itself.
        """
        job = _Job(task_type.cls.__module__, task_type.name, _row(context._claimed), task_type.overrides, reports)
        async with asyncio.timeout(START_SECONDS_MAX):
            worker = await self._take(job)
        try:
            async with limited:
                answer = await worker.outcome(job)
        except BaseException:
            worker.kill()
            raise
        outcome = answer if isinstance(answer, Outcome) else _unpacked(answer, task_type, context)
        context.settled = outcome == SETTLED
        if self._closed:
            worker.kill()
        else:
            self._idle.append(worker)
        return outcome

    async def _take(self, job: _Job) -> _Worker:
        """A process that has taken the job: an idle one, else a new one. The system may have killed one while it was idle; that
        must not cost the task an attempt. A new one that ends before it takes anything cannot run this task at all."""
        while True:
            is_new = not self._idle
            worker = _Worker(self._setup, self._on_lines) if is_new else self._idle.pop()
            try:
                await worker.take(job)
                return worker
            except ProcessDied:
                worker.kill()
                if is_new:
                    raise
            except BaseException:
                worker.kill()
                raise

    def close(self) -> None:
        """End the idle processes. Busy ones end with the attempt that holds them."""
        self._closed = True
        while self._idle:
            self._idle.pop().kill()


class _Worker:
    """One worker process and the pipe to it."""

    def __init__(self, setup: Setup, on_lines: Callable[[list[Line], bool], None]) -> None:
        self._on_lines = on_lines
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process: BaseProcess = spawn.Process(target=_serve, args=(theirs, setup), name="pgqueue-task", daemon=True)
        self._process.start()
        theirs.close()
        self._is_ready = False

    async def take(self, job: _Job) -> None:
        """Hand over a job; from here on it counts as started."""
        if not self._is_ready:
            # A large payload does not fit into the pipe: sent before anybody reads, it would hold the loop.
            await self._answer(job)
            self._is_ready = True
        try:
            self._pipe.send(job)
        except OSError as error:
            raise self._died(job) from error
        await self._answer(job)

    async def outcome(self, job: _Job) -> Outcome | _Report:
        """What came of the job it has taken."""
        answer = await self._answer(job)
        if isinstance(answer, Outcome | _Report):
            return answer
        raise PgQueueError(f"the process of {job.type} could not run it: {answer}")

    async def _answer(self, job: _Job) -> Any:
        while True:
            await self._readable()
            try:
                message = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise self._died(job) from error
            if not isinstance(message, _Lines):
                return message
            self._on_lines(message.lines, message.are_last)

    def _died(self, job: _Job) -> ProcessDied:
        self._process.join(JOIN_SECONDS)
        return ProcessDied(f"the process of {job.type} ended with {_exit(self._process.exitcode)}")

    def kill(self) -> None:
        self._process.kill()
        self._process.join(JOIN_SECONDS)
        self._pipe.close()

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._pipe.fileno(), _mark, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._pipe.fileno())


def _mark(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _exit(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = next((known.name for known in signal.Signals if known.value == -code), str(-code))
    return f"signal {name}"


def _unpacked(report: _Report, task_type: TaskType[Any], context: Context) -> Outcome:
    """The outcome; what else was told goes into the context."""
    failure = report.outcome.failure
    if report.error is not None:
        try:
            context.error = pickle.loads(report.error)  # noqa: S301  # from a process of our own
        except Exception as mistake:  # user code: its class may be unknown here, or refuse to be made
            logger.debug("the error of %s cannot be read here: %r", context.task_id, mistake)
    if context.error is None and failure is not None:
        context.error = ErrorInProcess(f"{failure.error_type}: {failure.error}")
    text = report.completion if report.outcome == SETTLED else report.outcome.result
    if text is not None:
        try:
            context._result = payload.decode_result(task_type, text)
        except Exception as mistake:  # user code: validators
            logger.warning("the result of %s cannot be read here, and its hooks get None: %r", context.task_id, mistake)
    return report.outcome


def _row(claimed: Claimed) -> tuple[Any, ...]:
    return (
        claimed.queue, claimed.claim_id, claimed.id, claimed.type, claimed.attempt, claimed.priority, claimed.maturity,
        claimed.claimed, claimed.payload, claimed.options, claimed.is_expired,
    )  # fmt: skip


# ── over there ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _ChildServices:
    """What an attempt may ask for in a worker process."""

    resources: Mapping[str, Any] = {}

    def __init__(self, setup: Setup, pipe: Pipe) -> None:
        self._setup = setup
        self._queue: Any = None
        self._pipe = pipe
        self._sending = threading.Lock()
        self._journal = Journal(lines_per_attempt=setup.log_lines, characters=setup.log_characters)
        self._reports_lines = False
        self._running: Claimed | None = None
        self.runner_id = setup.runner_id

    def open_log(self, claimed: Claimed) -> TaskLog:
        self._running = claimed
        with self._sending:
            if not self._reports_lines:
                self._reports_lines = True
                threading.Thread(target=self._report_lines, name="pgqueue-log", daemon=True).start()
        return self._journal.open(claimed)

    def answer(self, message: Any) -> None:
        """Send what came of an attempt, after what it has logged."""
        self._running = None
        with self._sending:
            if self._reports_lines:
                self._send_lines(are_last=True)
            self._pipe.send(message)

    def _report_lines(self) -> None:
        """While a task runs: what it logs is on its way soon, should the process be killed."""
        while True:
            time.sleep(LINES_PAUSE_SECONDS)
            with self._sending:
                if not self._journal.is_empty:
                    self._send_lines(are_last=False)

    def _send_lines(self, *, are_last: bool) -> None:
        while lines := self._journal.take(time.monotonic(), lambda claimed: claimed is self._running):
            self._pipe.send(_Lines(lines, are_last))

    def transaction(self, context: Context, connection: Any) -> Any:
        from pgqueue.transactions import Transaction

        return Transaction(context, self.queue(), None, connection)

    def queue_of(self, context: Context) -> Any:
        return self.queue() if context.connection is None else self.queue().bound(context.connection)

    def queue(self) -> Any:
        from pgqueue.client import Queue

        if self._queue is None:
            # A task that looks something up while its transaction is open needs a second connection.
            self._queue = Queue(self._setup.dsn, schema=self._setup.schema, pool_size=2)
        return self._queue


def _serve(pipe: Pipe, setup: Setup) -> None:
    """A worker process: attempts until the runner closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the runner decides what stops
    threading.Thread(target=_end_with_parent, name="pgqueue-parent", daemon=True).start()
    services = _ChildServices(setup, pipe)
    pipe.send(READY)
    while True:
        try:
            job: _Job = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(TAKEN)
        try:
            answer: Outcome | _Report | str = _attempt(job, services, setup)
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        services.answer(answer)


def _end_with_parent() -> None:
    """A runner that was killed cannot end its processes; without it nobody waits for what they do."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attempt(job: _Job, services: _ChildServices, setup: Setup) -> Outcome | _Report:
    from pgqueue.executor import conclude, succeed
    from pgqueue.overrides import overridden
    from pgqueue.registry import registry, running_context
    from pgqueue.task import attach

    for module in (*setup.modules, *([job.module] if registry.find(job.type) is None else [])):
        _import(module)
    task_type = registry.get(job.type)
    if job.overrides is not None:
        task_type = overridden(task_type, job.overrides)
    claimed = Claimed(*job.row)
    context = Context(claimed, services)
    task = payload.decode(task_type, claimed.payload)
    attach(task, context)
    running_context.set(context)
    dice = random.Random()
    try:
        result = _run(task_type, task)
    except BaseException as error:
        outcome = conclude(task_type, task, context, error, random=dice)
    else:
        outcome = succeed(task_type, task, context, result, limit=setup.result_bytes_max, random=dice)
    return _report(task_type, context, outcome, setup.result_bytes_max) if job.reports else outcome


def _import(module: str) -> None:
    """The module; that of the program itself has another name in here."""
    importlib.import_module("__mp_main__" if module == "__main__" and "__mp_main__" in sys.modules else module)


def _run(task_type: TaskType[Any], task: Task[Any]) -> Any:
    middleware = hooks_of(task_type.hooks).middleware
    if not middleware:
        result = task.run()
        return asyncio.run(result) if asyncio.iscoroutine(result) else result
    is_async = inspect.iscoroutinefunction(task.run)
    layers = Layers(middleware, task, task.run, is_async=is_async, in_thread=asyncio.to_thread)
    return asyncio.run(layers.run()) if layers.needs_loop else layers.run_sync()


def _report(task_type: TaskType[Any], context: Context, outcome: Outcome, result_bytes_max: int) -> _Report:
    error = completion = None
    if outcome.failure is not None:
        try:
            error = pickle.dumps(context.error)
        except Exception as mistake:  # user code: what an exception holds need not be fit to be sent
            logger.debug("the error of %s cannot be sent: %r", context.task_id, mistake)
    if outcome == SETTLED and context.completion is not None:
        completion = payload.encode_result(task_type, context.completion, limit=result_bytes_max)
    return _Report(outcome, error, completion)
