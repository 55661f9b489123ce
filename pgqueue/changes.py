"""Changes to one task by hand: what `Queue` and `AsyncQueue` have for an operator. The operations are in change_operations.py.

A claim that comes first wins: a change then raises TaskBusy, and has changed nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from typing_extensions import Unpack

from pgqueue import change_operations
from pgqueue.change_operations import LOCK_WAIT
from pgqueue.database import Operation
from pgqueue.edits import Mark, UpdateOptions, Values, check_edit, check_mark, check_values, copy_request
from pgqueue.errors import EnqueueConflict, TaskBusy
from pgqueue.filters import check_reason
from pgqueue.handles import AsyncTaskHandle, TaskHandle, id_of
from pgqueue.joining import arun_joined, run_joined
from pgqueue.operations import AlreadyEnqueued, Inserted
from pgqueue.pools import AsyncPool, Pool
from pgqueue.records import TaskRecord
from pgqueue.registry import Registry
from pgqueue.requests import EnqueueOptions
from pgqueue.settings import Settings
from pgqueue.statements import Statements

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, Queue

RV = TypeVar("RV")
AnyTask = uuid.UUID | str | TaskHandle[Any] | TaskRecord
AnyAsyncTask = uuid.UUID | str | AsyncTaskHandle[Any] | TaskRecord
BY_HAND = "marked by hand"


class _Client:
    """What a client brings along."""

    settings: Settings
    _registry: Registry
    _sql: Statements
    _bound: Any


class Changes(_Client):
    """The blocking client's part."""

    _pool: Pool

    def update(self, task: AnyTask, **options: Unpack[UpdateOptions]) -> TaskRecord:
        """Change a task that waits: priority, at or delay, queue, payload (a task, or all its fields), tags.

        Returns the task as it stands then.
        A payload is checked against its class if this program has it, and a unique key of its fields follows. To another queue it
        is moved whole, with its idempotency key. Waits up to five seconds for a runner that just has it in its hands.
        Raises TaskBusy where a runner has it, TaskFinished, TaskNotFound, KeyTaken, ConfigurationError, PayloadError.
        """
        task_id, edit, limit = id_of(task), check_edit(options), self.settings.max_payload_bytes
        return self._change(
            task_id, lambda repeated: change_operations.update(self._sql, task_id, edit, self._registry, limit=limit)
        )

    def delete(self, task: AnyTask, reason: str | None = None, *, purge: bool = False) -> None:
        """Delete a task that waits: it is kept in history as deleted, and `restore` brings it back.

        purge: for ever, and also one that has ended; nothing is left of it but its idempotency key, until that expires.
        Raises TaskBusy where a runner has it, TaskFinished (not with purge), TaskNotFound.
        """
        task_id, because = id_of(task), check_reason(reason)
        if purge:
            self._change(task_id, lambda repeated: change_operations.purge(self._sql, task_id, repeated=repeated))
        else:
            self._change(task_id, lambda repeated: change_operations.delete(self._sql, task_id, because, repeated=repeated))

    def restore(self, task: AnyTask) -> TaskHandle[Any]:
        """Bring a deleted task back as it was, with its keys, options and place in line; one that is not due waits until it is.

        Raises KeyTaken, WrongStatus where it is not deleted, TaskNotFound once its history is gone.
        """
        task_id = id_of(task)
        record = self._change(task_id, lambda repeated: change_operations.restore(self._sql, task_id, repeated=repeated))
        return TaskHandle(self._queue(), Inserted(record.id, record.queue, created=True), record.type, committed=True)

    def mark(self, task: AnyTask, as_: Mark, *, result: Any = None, reason: str | None = None) -> None:
        """End a task by hand that waits or runs, as "succeeded" (with `result`) or as "failed" (then it is dead).

        An attempt that runs goes on, and can settle nothing: its lease is lost. Cancel the task if it is to stop.
        Raises TaskFinished, TaskNotFound, TaskBusy, ConfigurationError; PayloadError for a result that the type does not promise.
        """
        task_id, how, because = id_of(task), check_mark(as_, result), check_reason(reason) or BY_HAND
        limit = self.settings.max_payload_bytes
        self._change(
            task_id,
            lambda repeated: change_operations.mark(
                self._sql, task_id, how, result, because, self._registry, limit=limit, repeated=repeated
            ),
        )

    def requeue(
        self,
        task: AnyTask,
        *,
        payload: Values | None = None,
        connection: psycopg.Connection[Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> TaskHandle[Any]:
        """Enqueue a copy of a task that has ended, under a new id; `payload` (a task, or all its fields) in place of its own.

        Queue, priority, tags, headers, and as far as they are still stored timeout and retry are the original's, unless `options`
        say otherwise. The lineage of each names the other. A unique key that is taken gives the holder's handle, as in enqueue.
        Raises WrongStatus where it has not ended, TaskNotFound, ConfigurationError, PayloadError, EnqueueConflict.
        """
        task_id, values = id_of(task), check_values(payload)
        original = self._pool.perform(lambda repeated: change_operations.original(self._sql, task_id))
        request = copy_request(original, values, options, self._registry, self.settings)
        connection = self._bound if connection is None else connection
        if connection is not None:
            inserted = run_joined(connection, change_operations.requeue(self._sql, request, task_id, original.queue))
        else:
            try:
                inserted = self._change(
                    task_id,
                    lambda repeated: change_operations.requeue(self._sql, request, task_id, original.queue, repeated=repeated),
                )
            except AlreadyEnqueued:
                inserted = Inserted(request.id, request.queue, created=True)
        return TaskHandle(self._queue(), inserted, request.type, committed=connection is None)

    def _change(self, task_id: uuid.UUID, attempt: Callable[[bool], Operation[RV]]) -> RV:
        with said_plainly(f"task {task_id}"):
            return self._pool.perform(attempt, needs_transaction=always)

    def _queue(self) -> Queue:
        return self  # type: ignore[return-value]  # the one class that this is a part of


class AsyncChanges(_Client):
    """The asyncio client's part: the same methods, awaitable."""

    _pool: AsyncPool

    async def update(self, task: AnyAsyncTask, **options: Unpack[UpdateOptions]) -> TaskRecord:
        """Change a task that waits, as Queue.update does."""
        task_id, edit, limit = id_of(task), check_edit(options), self.settings.max_payload_bytes
        return await self._change(
            task_id, lambda repeated: change_operations.update(self._sql, task_id, edit, self._registry, limit=limit)
        )

    async def delete(self, task: AnyAsyncTask, reason: str | None = None, *, purge: bool = False) -> None:
        """Delete a task that waits, or with `purge` any that does not run for ever, as Queue.delete does."""
        task_id, because = id_of(task), check_reason(reason)
        if purge:
            await self._change(task_id, lambda repeated: change_operations.purge(self._sql, task_id, repeated=repeated))
        else:
            await self._change(task_id, lambda repeated: change_operations.delete(self._sql, task_id, because, repeated=repeated))

    async def restore(self, task: AnyAsyncTask) -> AsyncTaskHandle[Any]:
        """Bring a deleted task back as it was, as Queue.restore does."""
        task_id = id_of(task)
        record = await self._change(task_id, lambda repeated: change_operations.restore(self._sql, task_id, repeated=repeated))
        return AsyncTaskHandle(self._queue(), Inserted(record.id, record.queue, created=True), record.type, committed=True)

    async def mark(self, task: AnyAsyncTask, as_: Mark, *, result: Any = None, reason: str | None = None) -> None:
        """End a task by hand that waits or runs, as Queue.mark does."""
        task_id, how, because = id_of(task), check_mark(as_, result), check_reason(reason) or BY_HAND
        limit = self.settings.max_payload_bytes
        await self._change(
            task_id,
            lambda repeated: change_operations.mark(
                self._sql, task_id, how, result, because, self._registry, limit=limit, repeated=repeated
            ),
        )

    async def requeue(
        self,
        task: AnyAsyncTask,
        *,
        payload: Values | None = None,
        connection: psycopg.AsyncConnection[Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> AsyncTaskHandle[Any]:
        """Enqueue a copy of a task that has ended, as Queue.requeue does."""
        task_id, values = id_of(task), check_values(payload)
        original = await self._pool.perform(lambda repeated: change_operations.original(self._sql, task_id))
        request = copy_request(original, values, options, self._registry, self.settings)
        connection = self._bound if connection is None else connection
        if connection is not None:
            inserted = await arun_joined(connection, change_operations.requeue(self._sql, request, task_id, original.queue))
        else:
            try:
                inserted = await self._change(
                    task_id,
                    lambda repeated: change_operations.requeue(self._sql, request, task_id, original.queue, repeated=repeated),
                )
            except AlreadyEnqueued:
                inserted = Inserted(request.id, request.queue, created=True)
        return AsyncTaskHandle(self._queue(), inserted, request.type, committed=connection is None)

    async def _change(self, task_id: uuid.UUID, attempt: Callable[[bool], Operation[RV]]) -> RV:
        with said_plainly(f"task {task_id}"):
            return await self._pool.perform(attempt, needs_transaction=always)

    def _queue(self) -> AsyncQueue:
        return self  # type: ignore[return-value]  # as above


def always(repeated: bool) -> bool:
    """Every change is one transaction."""
    return True


@contextmanager
def said_plainly(what: str) -> Iterator[None]:
    """Turn the driver's errors of a change into ours."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise TaskBusy(
            f"{what}: a runner or another transaction held its row or its key for more than {LOCK_WAIT}; nothing was changed",
            status=None,
        ) from error
    except psycopg.errors.UniqueViolation as error:
        raise EnqueueConflict(
            f"{what}: its unique key was taken at this very moment; nothing was changed, so try again"
        ) from error
