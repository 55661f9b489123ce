"""`queue.dead`: look at dead tasks, make them ready again, delete them for ever. The operations are in dead_operations.py.

A retried task has the same id and key, and a new budget of attempts; what it was stands in its lineage.
"""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from pgqueue import dead_operations
from pgqueue.changes import AnyAsyncTask, AnyTask, always, said_plainly
from pgqueue.errors import ConfigurationError
from pgqueue.filters import DeadFilter, DeadOptions, Filter, Page, check_dead_filter, check_page
from pgqueue.handles import AsyncTaskHandle, TaskHandle, id_of
from pgqueue.operations import FIRST_ID
from pgqueue.records import RetriedAll, TaskPage, TaskRecord

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, Queue

BULK = "the dead tasks of this call"


class DeadLetters:
    """The dead tasks of a blocking client."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def list(self, *, limit: int = 50, cursor: str | None = None, **which: Unpack[DeadOptions]) -> TaskPage:
        """Dead tasks that match, newest first, a page of up to 1,000. older_than: dead for so long at least."""
        wanted, page = self._wanted(which), _page(limit, cursor)
        return self._queue._run(lambda: dead_operations.list_dead(self._queue._sql, wanted, page))

    def get(self, task: AnyTask) -> TaskRecord | None:
        """A dead task by its id; None: no dead task has it."""
        task_id = id_of(task)
        return self._queue._run(lambda: dead_operations.get(self._queue._sql, task_id))

    def count(self, **which: Unpack[DeadOptions]) -> int:
        """How many match."""
        return self._summary(self._wanted(which))[0]

    def oldest_age(self, **which: Unpack[DeadOptions]) -> timedelta | None:
        """For how long the oldest that matches has been dead; None: there is none."""
        return self._summary(self._wanted(which))[1]

    def retry(self, task: AnyTask) -> TaskHandle[Any]:
        """Make a dead task ready again: the same id and unique key, attempts from 0, no expiry.

        Of a type that no live runner knows it is blocked after a while, until one does. Raises KeyTaken (it stays dead, and the
        error names the unfinished task that holds its key), WrongStatus where it is not dead, TaskNotFound, TaskBusy.
        """
        task_id = id_of(task)
        with said_plainly(f"task {task_id}"):
            retried = self._queue._pool.perform(
                lambda repeated: dead_operations.retry(self._queue._sql, task_id, repeated=repeated), needs_transaction=always
            )
        return TaskHandle(self._queue, retried.inserted, retried.type, committed=True)

    def retry_all(self, *, ids: Iterable[AnyTask] | None = None, **which: Unpack[DeadOptions]) -> RetriedAll:
        """Make every dead task that matches, and was dead at the call, ready again, in batches of 1,000; says how many.

        One whose unique key is taken is skipped and counted. Raises TaskBusy where a transaction that does not end has the key.
        """
        wanted = self._wanted(which, ids)
        found = retried = 0
        after: uuid.UUID | None = FIRST_ID
        now = self._now()
        while after is not None:
            batch = self._retry_batch(wanted, after, now)
            after, found, retried = batch.last_id, found + batch.found_count, retried + batch.done_count
        return RetriedAll(retried, found - retried)

    def purge(self, *, ids: Iterable[AnyTask] | None = None, **which: Unpack[DeadOptions]) -> int:
        """Delete the dead tasks that match for ever, in batches of 1,000; returns how many.

        Something must be said of which: older_than=timedelta(0) means all. Raises ConfigurationError.
        """
        wanted = _not_everything(self._wanted(which, ids))
        count = 0
        after: uuid.UUID | None = FIRST_ID
        now = self._now()
        while after is not None:
            batch = self._purge_batch(wanted, after, now)
            after, count = batch.last_id, count + batch.done_count
        return count

    def _wanted(self, which: DeadOptions, ids: Iterable[AnyTask] | None = None) -> DeadFilter:
        return check_dead_filter(self._queue.registry, which, _ids(ids))

    def _summary(self, wanted: DeadFilter) -> tuple[int, timedelta | None]:
        return self._queue._run(lambda: dead_operations.summary(self._queue._sql, wanted))

    def _now(self) -> datetime:
        return self._queue._run(lambda: dead_operations.clock(self._queue._sql))

    def _retry_batch(self, wanted: DeadFilter, after: uuid.UUID, now: datetime) -> dead_operations.Batch:
        with said_plainly(BULK):
            return self._queue._pool.perform(
                lambda repeated: dead_operations.retry_batch(self._queue._sql, wanted, after, now), needs_transaction=always
            )

    def _purge_batch(self, wanted: DeadFilter, after: uuid.UUID, now: datetime) -> dead_operations.Batch:
        return self._queue._run(lambda: dead_operations.purge_batch(self._queue._sql, wanted, after, now))


class AsyncDeadLetters:
    """The dead tasks of an asyncio client: the same methods, awaitable."""

    def __init__(self, queue: AsyncQueue) -> None:
        self._queue = queue

    async def list(self, *, limit: int = 50, cursor: str | None = None, **which: Unpack[DeadOptions]) -> TaskPage:
        """Dead tasks that match, as DeadLetters.list."""
        wanted, page = self._wanted(which), _page(limit, cursor)
        return await self._queue._run(lambda: dead_operations.list_dead(self._queue._sql, wanted, page))

    async def get(self, task: AnyAsyncTask) -> TaskRecord | None:
        """A dead task by its id; None: no dead task has it."""
        task_id = id_of(task)
        return await self._queue._run(lambda: dead_operations.get(self._queue._sql, task_id))

    async def count(self, **which: Unpack[DeadOptions]) -> int:
        """How many match."""
        return (await self._summary(self._wanted(which)))[0]

    async def oldest_age(self, **which: Unpack[DeadOptions]) -> timedelta | None:
        """For how long the oldest that matches has been dead; None: there is none."""
        return (await self._summary(self._wanted(which)))[1]

    async def retry(self, task: AnyAsyncTask) -> AsyncTaskHandle[Any]:
        """Make a dead task ready again, as DeadLetters.retry."""
        task_id = id_of(task)
        with said_plainly(f"task {task_id}"):
            retried = await self._queue._pool.perform(
                lambda repeated: dead_operations.retry(self._queue._sql, task_id, repeated=repeated), needs_transaction=always
            )
        return AsyncTaskHandle(self._queue, retried.inserted, retried.type, committed=True)

    async def retry_all(self, *, ids: Iterable[AnyAsyncTask] | None = None, **which: Unpack[DeadOptions]) -> RetriedAll:
        """Make every dead task that matches ready again, as DeadLetters.retry_all."""
        wanted = self._wanted(which, ids)
        found = retried = 0
        after: uuid.UUID | None = FIRST_ID
        now = await self._now()
        while after is not None:
            batch = await self._retry_batch(wanted, after, now)
            after, found, retried = batch.last_id, found + batch.found_count, retried + batch.done_count
        return RetriedAll(retried, found - retried)

    async def purge(self, *, ids: Iterable[AnyAsyncTask] | None = None, **which: Unpack[DeadOptions]) -> int:
        """Delete the dead tasks that match for ever, as DeadLetters.purge."""
        wanted = _not_everything(self._wanted(which, ids))
        count = 0
        after: uuid.UUID | None = FIRST_ID
        now = await self._now()
        while after is not None:
            batch = await self._purge_batch(wanted, after, now)
            after, count = batch.last_id, count + batch.done_count
        return count

    def _wanted(self, which: DeadOptions, ids: Iterable[AnyAsyncTask] | None = None) -> DeadFilter:
        return check_dead_filter(self._queue.registry, which, _ids(ids))

    async def _summary(self, wanted: DeadFilter) -> tuple[int, timedelta | None]:
        return await self._queue._run(lambda: dead_operations.summary(self._queue._sql, wanted))

    async def _now(self) -> datetime:
        return await self._queue._run(lambda: dead_operations.clock(self._queue._sql))

    async def _retry_batch(self, wanted: DeadFilter, after: uuid.UUID, now: datetime) -> dead_operations.Batch:
        with said_plainly(BULK):
            return await self._queue._pool.perform(
                lambda repeated: dead_operations.retry_batch(self._queue._sql, wanted, after, now), needs_transaction=always
            )

    async def _purge_batch(self, wanted: DeadFilter, after: uuid.UUID, now: datetime) -> dead_operations.Batch:
        return await self._queue._run(lambda: dead_operations.purge_batch(self._queue._sql, wanted, after, now))


def _ids(tasks: Iterable[object] | None) -> builtins.list[uuid.UUID] | None:
    if tasks is None:
        return None
    if isinstance(tasks, str | bytes) or not isinstance(tasks, Iterable):
        raise ConfigurationError(f"ids takes a list of tasks, not {tasks!r:.200}")
    return [id_of(task) for task in tasks]


def _page(limit: object, cursor: str | None) -> Page:
    return check_page(Filter(), created_after=None, limit=limit, cursor=cursor)


def _not_everything(wanted: DeadFilter) -> DeadFilter:
    if wanted == DeadFilter():
        raise ConfigurationError(
            "purge deletes for ever, so say which: type=, queue=, tags=, ids=, or older_than= (timedelta(0) for all)"
        )
    return wanted
