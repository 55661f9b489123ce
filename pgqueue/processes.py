"""Processes for `executor="process"`: work that holds the CPU, and that can be killed.

Each worker process runs one attempt at a time: it decodes the payload, runs the task, decides about a retry, and sends back an
`Outcome`. It is started by spawn when first needed and kept for the next task; a cancelled or overdue one is killed.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import random
import signal
import sys
import threading
import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any

from pgqueue import payload
from pgqueue.context import Claimed, Context
from pgqueue.definition import TaskType
from pgqueue.errors import PgQueueError
from pgqueue.outcomes import SETTLED, Outcome

JOIN_SECONDS = 5.0
START_SECONDS_MAX = 60.0
READY, TAKEN = "ready", "taken"
"""What a worker process says before its answer: that it has started, and that it has taken a job."""


class ProcessDied(PgQueueError):
    """The process that ran a task ended in the middle of it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker process needs to know, all of it plain values."""

    dsn: str
    schema: str
    runner_id: uuid.UUID
    result_bytes_max: int


@dataclass(frozen=True, slots=True)
class _Job:
    module: str
    type: str
    row: tuple[Any, ...]


class Processes:
    """Worker processes, as many as there are attempts that need one at a time."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._idle: list[_Worker] = []
        self._closed = False

    async def run(self, task_type: TaskType[Any], context: Context, limited: AbstractAsyncContextManager[None]) -> Outcome:
        """Run one attempt over there, `limited` from when a process has taken it: to start one may take longer than the task.

        Cancelling the wait kills the process. Raises ProcessDied when it ends by itself.
        """
        job = _Job(task_type.cls.__module__, task_type.name, _row(context._claimed))
        async with asyncio.timeout(START_SECONDS_MAX):
            worker = await self._take(job)
        try:
            async with limited:
                outcome = await worker.outcome(job)
        except BaseException:
            worker.kill()
            raise
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
            worker = _Worker(self._setup) if is_new else self._idle.pop()
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

    def __init__(self, setup: Setup) -> None:
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

    async def outcome(self, job: _Job) -> Outcome:
        """What came of the job it has taken."""
        answer = await self._answer(job)
        if isinstance(answer, Outcome):
            return answer
        raise PgQueueError(f"the process of {job.type} could not run it: {answer}")

    async def _answer(self, job: _Job) -> Any:
        await self._readable()
        try:
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died(job) from error

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


def _row(claimed: Claimed) -> tuple[Any, ...]:
    return (
        claimed.queue, claimed.claim_id, claimed.id, claimed.type, claimed.attempt, claimed.priority, claimed.maturity,
        claimed.claimed, claimed.payload, claimed.options, claimed.is_expired,
    )  # fmt: skip


# ── over there ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _ChildServices:
    """What an attempt may ask for in a worker process."""

    resources: Mapping[str, Any] = {}

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._queue: Any = None
        self.runner_id = setup.runner_id

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
    services = _ChildServices(setup)
    pipe.send(READY)
    while True:
        try:
            job: _Job = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(TAKEN)
        try:
            answer: Outcome | str = _attempt(job, services, setup)
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        pipe.send(answer)


def _end_with_parent() -> None:
    """A runner that was killed cannot end its processes; without it nobody waits for what they do."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attempt(job: _Job, services: _ChildServices, setup: Setup) -> Outcome:
    from pgqueue.executor import conclude, succeed
    from pgqueue.registry import registry, running_context
    from pgqueue.task import attach

    if registry.find(job.type) is None:
        importlib.import_module("__mp_main__" if job.module == "__main__" and "__mp_main__" in sys.modules else job.module)
    task_type = registry.get(job.type)
    claimed = Claimed(*job.row)
    context = Context(claimed, services)
    task = payload.decode(task_type, claimed.payload)
    attach(task, context)
    running_context.set(context)
    dice = random.Random()
    try:
        result = task.run()
        if asyncio.iscoroutine(result):
            result = asyncio.run(result)
    except BaseException as error:
        return conclude(task_type, task, context, error, random=dice)
    return succeed(task_type, task, context, result, limit=setup.result_bytes_max, random=dice)
