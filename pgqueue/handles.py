"""`TaskHandle` and `AsyncTaskHandle`: what an enqueue returns, to ask after its task. They go through their client."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from pgqueue import operations, payload
from pgqueue.errors import (
    ConfigurationError,
    ResultTimeout,
    TaskCancelled,
    TaskDead,
    TaskDeleted,
    TaskIgnored,
    TaskNotFound,
    TaskUnsuccessful,
)
from pgqueue.filters import check_id
from pgqueue.operations import Inserted, Standing
from pgqueue.records import TaskRecord
from pgqueue.states import UNFINISHED, Status

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, Queue
    from pgqueue.registry import Registry

R = TypeVar("R")
RESULT_POLL_MIN_SECONDS = 0.002
RESULT_POLL_MAX_SECONDS = 0.25
RESULT_POLL_GROWTH = 1.3
_ERRORS: dict[Status, type[TaskUnsuccessful]] = {
    Status.DEAD: TaskDead,
    Status.CANCELLED: TaskCancelled,
    Status.IGNORED: TaskIgnored,
    Status.DELETED: TaskDeleted,
}


class _Handle(Generic[R]):
    """What both kinds know without asking the database."""

    def __init__(self, inserted: Inserted, type_name: str, *, committed: bool) -> None:
        self.id: uuid.UUID = inserted.id
        """The task's id, a UUIDv7."""
        self.queue_name = inserted.queue
        self.created = inserted.created
        """False: an unfinished task held the unique key, or the idempotency key was known; this is that task."""
        self.type = type_name
        self._committed = committed

    def _ended(self, found: Standing | None) -> bool:
        """Whether there is nothing to wait for. One that was stored once and is nowhere has ended, and nothing was kept of it."""
        self._committed = self._committed or found is not None
        return self._committed if found is None else found.status not in UNFINISHED

    def _outcome(self, registry: Registry, found: Standing | None) -> R:
        """The result of a task that has ended. Raises the error of one that has none."""
        what = f"{self.type} {self.id}"
        if found is None:
            raise TaskNotFound(
                f"{what} has ended and nothing is kept of it: its type says history=False, or its history was dropped"
            )
        if found.status is Status.SUCCEEDED:
            result: R = payload.decode_result(registry.find(self.type), found.result)
            return result
        because = f": {found.reason}" if found.reason else ""
        verb = "is dead" if found.status is Status.DEAD else f"was {found.status}"
        raise _ERRORS[found.status](f"{what} {verb}{because}", error=found.reason)

    def _timeout(self, seconds: float | None) -> ResultTimeout:
        return ResultTimeout(
            f"{self.type} {self.id} did not end within {seconds:g} s; is a runner at work on queue {self.queue_name!r}?"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.type} {self.id}{'' if self.created else ' (existing)'}>"


class TaskHandle(_Handle[R]):
    """A task that was enqueued, or that stood in its place. Cheap: it holds an id and its queue."""

    def __init__(self, queue: Queue, inserted: Inserted, type_name: str, *, committed: bool) -> None:
        super().__init__(inserted, type_name, committed=committed)
        self._queue = queue

    def status(self) -> Status | None:
        """Where the task stands now; None before its transaction has committed, and when nothing is kept of it."""
        found = self._look()
        return None if found is None else found.status

    def result(self, timeout: float | timedelta | None = None) -> R:
        """Wait for the result: what `run` returned, as the R of `Task[R]`. `timeout` in seconds; None waits for ever.

        Raises TaskDead, TaskCancelled, TaskIgnored or TaskDeleted when there is none, ResultTimeout when it takes longer,
        TaskNotFound when the task ended and its history is not kept.
        """
        seconds = _seconds(timeout)
        for delay in _polls(seconds):
            found = self._look()
            if self._ended(found):
                return self._outcome(self._queue.registry, found)
            time.sleep(delay)
        raise self._timeout(seconds)

    def cancel(self, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        return self._queue.cancel(self, reason)

    def _look(self) -> Standing | None:
        return self._queue._run(lambda: operations.standing(self._queue._sql, self.queue_name, self.id))


class AsyncTaskHandle(_Handle[R]):
    """A task that was enqueued, or that stood in its place; the same as TaskHandle with awaitable methods."""

    def __init__(self, queue: AsyncQueue, inserted: Inserted, type_name: str, *, committed: bool) -> None:
        super().__init__(inserted, type_name, committed=committed)
        self._queue = queue

    async def status(self) -> Status | None:
        """Where the task stands now; None before its transaction has committed, and when nothing is kept of it."""
        found = await self._look()
        return None if found is None else found.status

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """Wait for the result, as TaskHandle.result does."""
        seconds = _seconds(timeout)
        for delay in _polls(seconds):
            found = await self._look()
            if self._ended(found):
                return self._outcome(self._queue.registry, found)
            await asyncio.sleep(delay)
        raise self._timeout(seconds)

    async def cancel(self, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        return await self._queue.cancel(self, reason)

    async def _look(self) -> Standing | None:
        return await self._queue._run(lambda: operations.standing(self._queue._sql, self.queue_name, self.id))


def id_of(task: object) -> uuid.UUID:
    """The id of a task, of its handle, its record, or its text. Raises ConfigurationError."""
    return check_id(task.id if isinstance(task, TaskHandle | AsyncTaskHandle | TaskRecord) else task)


def _polls(timeout: float | None) -> Iterator[float]:
    """Growing pauses between looks for a result, until the timeout; always one look at least, and one at its end."""
    deadline = None if timeout is None else time.monotonic() + timeout
    delay = RESULT_POLL_MIN_SECONDS
    while True:
        left = delay if deadline is None else min(delay, deadline - time.monotonic())
        yield max(0.0, left)
        if left <= 0:
            return
        delay = min(RESULT_POLL_MAX_SECONDS, delay * RESULT_POLL_GROWTH)


def _seconds(timeout: object) -> float | None:
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ConfigurationError(f"timeout takes seconds or a timedelta of zero or more, not {timeout!r}")
    return float(seconds)
