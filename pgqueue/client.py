"""`Queue` and `AsyncQueue`: where a task's way begins. Both speak the same operations (operations.py), one blocking, one not.

    client → enqueue.sql → claim.sql → worker → executor → states → completer → settle.sql

An enqueue given `connection=` joins the caller's transaction and never commits it. Without one it uses the client's own pool, and
repeats itself by the task's id when the connection is lost, so that a restart of the server costs time and no task.
"""

from __future__ import annotations

import asyncio
import builtins
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from copy import copy
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import psycopg
from typing_extensions import Unpack

from pgqueue import operations, payload
from pgqueue.catalogue import AsyncTypes, Types
from pgqueue.collector import collector_paused
from pgqueue.database import AsyncConnection, Connection, Operation
from pgqueue.errors import ConfigurationError, TaskNotFound
from pgqueue.filters import Filter, check_filter, check_id, check_page, check_queue, check_reason, check_unfinished
from pgqueue.handles import AsyncTaskHandle, TaskHandle
from pgqueue.joining import arun_joined, run_joined
from pgqueue.operations import AlreadyEnqueued, Inserted
from pgqueue.pools import AsyncPool, Pool
from pgqueue.preparation import prepare, prepare_many
from pgqueue.records import AttemptRecord, QueueRecord, TaskPage, TaskRecord
from pgqueue.registry import Registry
from pgqueue.registry import registry as default_registry
from pgqueue.requests import EnqueueOptions, QueueOptions, Request, check_name, check_queue_options
from pgqueue.server import Home
from pgqueue.settings import Settings, load
from pgqueue.statements import statements
from pgqueue.states import Status
from pgqueue.task import Task

__all__ = ["AsyncQueue", "AsyncTaskHandle", "Queue", "TaskHandle"]

R = TypeVar("R")
RV = TypeVar("RV")
P = TypeVar("P", Pool, AsyncPool)

POOL_SIZE_DEFAULT = 4


class _Client(Generic[P]):
    """What both clients are made of: settings, statements, the registry, and the way to the server."""

    _pool_type: type[P]

    def __init__(
        self,
        dsn: str | None = None,
        *,
        schema: str | None = None,
        pool_size: int = POOL_SIZE_DEFAULT,
        settings: Settings | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.settings = load(schema=schema) if settings is None else settings
        self.schema = self.settings.db_schema if schema is None else schema
        self._registry = default_registry if registry is None else registry
        self._sql = statements(self.schema)
        self._home = Home(dsn, self.settings)
        self._pool: P = self._pool_type(self._home.dsn, _checked_size(pool_size))
        self._bound: Any = None

    @property
    def registry(self) -> Registry:
        """The task types this client knows by name."""
        return self._registry

    @property
    def dsn(self) -> str:
        """The server's address; an embedded server is started or joined by asking."""
        return self._home.dsn()

    def bound(self, connection: Any) -> Self:
        """This client with another default: every enqueue joins the transaction of `connection`. The pool is shared."""
        twin = copy(self)
        twin._bound = connection
        return twin

    def _by_name(self, name: str, values: dict[str, Any] | None) -> Task[Any]:
        return payload.validate(self._registry.get(name), values or {})

    def _pick(self, status: Any, type: str | None, queue: str | None, tags: Sequence[str] | None) -> Filter:
        return check_filter(self._registry, status=status, type=type, queue=queue, tags=tags)


class Queue(_Client[Pool]):
    """The blocking client. `with Queue() as queue:` uses DATABASE_URL, else the embedded PostgreSQL, and says which.

    Safe to share between threads; opens its connections (`pool_size` at most) when first used.
    """

    _pool_type = Pool

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        """Find the server and open the pool. Done by the first use; raises DatabaseUnavailable at once when nobody answers."""
        self._pool.open()

    def close(self) -> None:
        """Close the connections, and let go of an embedded server. Tasks are not touched."""
        self._pool.close()
        self._home.leave()

    def migrate(self) -> None:
        """Create the schema, or bring it up to this version. Safe while runners run, and in several processes at once."""
        from pgqueue.migrations import migrate

        migrate(self.dsn, schema=self.schema)

    def enqueue(
        self, task: Task[R], *, connection: psycopg.Connection[Any] | None = None, **options: Unpack[EnqueueOptions]
    ) -> TaskHandle[R]:
        """Insert a task; higher `priority` runs first, within one priority the earlier maturity, then the earlier id.

        delay (from now) or at (an aware datetime); expires: not started by then, it is cancelled; unique, idempotency_key: a
        duplicate gives the existing task's handle with `created` False; timeout, retry, priority, queue, tags override the type.
        notify=False: sleeping runners are not told, for a transaction that is to be PREPAREd. With `connection` it joins
        that transaction and never commits; without, it has committed when it returns.
        Raises ConfigurationError, PayloadError, EnqueueConflict, SchemaError, DatabaseUnavailable.
        """
        request = prepare(task, options, self.settings)
        connection = self._bound if connection is None else connection
        if connection is None:
            inserted = self._enqueue_own(request)
        else:
            inserted = run_joined(connection, operations.enqueue(self._sql, request))
        return TaskHandle(self, inserted, request.type, committed=connection is None)

    def enqueue_by_name(
        self,
        name: str,
        values: dict[str, Any] | None = None,
        *,
        connection: psycopg.Connection[Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> TaskHandle[Any]:
        """Enqueue by the type's name (case, `-` and `_` do not matter) and its payload's values. Raises UnknownTask."""
        return self.enqueue(self._by_name(name, values), connection=connection, **options)

    def enqueue_many(
        self,
        tasks: Iterable[Task[R]],
        *,
        spacing: timedelta | None = None,
        connection: psycopg.Connection[Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> builtins.list[TaskHandle[R]]:
        """Insert all of them or none, in one transaction; the handles come in the order of the tasks.

        From 300 tasks without keys on they travel by COPY. `spacing`: each matures that much later than the one before.
        """
        requests = prepare_many(tasks, options, spacing, self.settings)
        if not requests:
            return []
        connection = self._bound if connection is None else connection
        if connection is None:
            inserted = self._enqueue_many_own(requests)
        else:
            inserted = run_joined(connection, operations.enqueue_many(self._sql, requests))
        pairs, committed = zip(inserted, requests, strict=True), connection is None
        with collector_paused():
            return [TaskHandle(self, one, request.type, committed=committed) for one, request in pairs]

    def get(self, task: uuid.UUID | str | TaskHandle[Any]) -> TaskRecord | None:
        """A task by its id, wherever it lives; None when nothing is stored of it."""
        task_id = _id(task)
        return self._run(lambda: operations.get(self._sql, task_id))

    def attempts(self, task: uuid.UUID | str | TaskHandle[Any]) -> builtins.list[AttemptRecord]:
        """The failed attempts of a task, first to last."""
        task_id = _id(task)
        return self._run(lambda: operations.attempts(self._sql, task_id))

    def list(
        self,
        *,
        status: Status | str | Iterable[Status | str] | None = None,
        type: str | None = None,
        queue: str | None = None,
        created_after: datetime | None = None,
        tags: Sequence[str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> TaskPage:
        """Tasks that match, newest first, a page of up to 1,000. `cursor` is that of the page before."""
        page = check_page(self._pick(status, type, queue, tags), created_after=created_after, limit=limit, cursor=cursor)
        return self._run(lambda: operations.list_tasks(self._sql, page))

    def depth(self, queue: str | None = None) -> int:
        """How many tasks are ready to run, in one queue or in all; counted exactly."""
        name = check_queue(queue)
        return self._run(lambda: operations.depth(self._sql, name))

    def counts(self, queue: str | None = None) -> dict[str, dict[Status, int]]:
        """Unfinished and dead tasks by queue and status. Finished ones are not counted: the cost does not grow with history."""
        name = check_queue(queue)
        return self._run(lambda: operations.counts(self._sql, name))

    def cancel(self, task: TaskHandle[Any] | uuid.UUID | str, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        task_id, because = _id(task), check_reason(reason)
        if isinstance(task, TaskHandle):
            queue = task.queue_name
        else:
            queue = _found(self._run(lambda: operations.get(self._sql, task_id)), task_id).queue
        return self._pool.perform(lambda repeated: operations.cancel(self._sql, queue, task_id, because, repeated=repeated))

    def cancel_all(
        self,
        *,
        status: Status | str | Iterable[Status | str] | None = None,
        type: str | None = None,
        queue: str | None = None,
        tags: Sequence[str] | None = None,
        reason: str | None = None,
    ) -> int:
        """Cancel every unfinished task that matches and was there at the call; running ones are asked. Returns how many."""
        wanted, because = check_unfinished(self._pick(status, type, queue, tags)), check_reason(reason)
        return self._run(lambda: operations.cancel_all(self._sql, wanted, because))

    def queues(self) -> builtins.list[QueueRecord]:
        """The queues that hold unfinished tasks or have settings, by name."""
        return self._run(lambda: operations.queues(self._sql))

    def configure(self, name: str, **options: Unpack[QueueOptions]) -> QueueRecord:
        """Set how a queue is worked off; what is left out stays as it is. Runners follow within a few seconds.

        aging: a task gains one step of priority for each such time that it has waited; None: strictly by priority.
        Returns how the queue is set now. Raises ConfigurationError.
        """
        queue, checked = check_name(name, "queue"), check_queue_options(options)
        return self._run(lambda: operations.configure(self._sql, queue, checked))

    @property
    def types(self) -> Types:
        """The task types, and what operators set of them: `queue.types.update("send-email", timeout=...)`."""
        return Types(self)

    def run_now(self, task: Task[R]) -> R:
        """Run a task here and now, without the database: for scripts and tests. Its exception comes out as it is."""
        from pgqueue.eager import run_eagerly

        result: R = run_eagerly(self, task)
        return result

    def _enqueue_own(self, request: Request) -> Inserted:
        try:
            return self._pool.perform(
                lambda repeated: operations.enqueue(self._sql, request, repeated=repeated),
                needs_transaction=lambda repeated: operations.is_atomic(request, repeated=repeated),
            )
        except AlreadyEnqueued:
            return Inserted(request.id, request.queue, created=True)

    def _enqueue_many_own(self, requests: Sequence[Request]) -> builtins.list[Inserted]:
        try:
            return self._pool.perform(
                lambda repeated: operations.enqueue_many(self._sql, requests, repeated=repeated),
                needs_transaction=lambda repeated: True,
                is_repeatable=operations.is_repeatable(requests),
            )
        except AlreadyEnqueued:
            return [Inserted(request.id, request.queue, created=True) for request in requests]

    def _connection(self) -> AbstractContextManager[Connection]:
        return self._pool.connection()

    def _run(self, operation: Callable[[], Operation[RV]]) -> RV:
        """What may be done again as it is: reading, above all."""
        return self._pool.perform(lambda repeated: operation())


class AsyncQueue(_Client[AsyncPool]):
    """The asyncio client: the same methods as `Queue`, awaitable. `async with AsyncQueue() as queue:`.

    Belongs to one event loop.
    """

    _pool_type = AsyncPool

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def open(self) -> None:
        """Find the server and open the pool. Done by the first use; raises DatabaseUnavailable at once when nobody answers."""
        await self._pool.open()

    async def close(self) -> None:
        """Close the connections, and let go of an embedded server. Tasks are not touched."""
        await self._pool.close()
        self._home.leave()

    async def migrate(self) -> None:
        """Create the schema, or bring it up to this version. Safe while runners run, and in several processes at once."""
        from pgqueue.migrations import migrate

        await asyncio.to_thread(lambda: migrate(self.dsn, schema=self.schema))

    async def enqueue(
        self, task: Task[R], *, connection: psycopg.AsyncConnection[Any] | None = None, **options: Unpack[EnqueueOptions]
    ) -> AsyncTaskHandle[R]:
        """Insert a task, as Queue.enqueue does; `connection` is an async psycopg connection."""
        request = prepare(task, options, self.settings)
        connection = self._bound if connection is None else connection
        if connection is None:
            inserted = await self._enqueue_own(request)
        else:
            inserted = await arun_joined(connection, operations.enqueue(self._sql, request))
        return AsyncTaskHandle(self, inserted, request.type, committed=connection is None)

    async def enqueue_by_name(
        self,
        name: str,
        values: dict[str, Any] | None = None,
        *,
        connection: psycopg.AsyncConnection[Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> AsyncTaskHandle[Any]:
        """Enqueue by the type's name (case, `-` and `_` do not matter) and its payload's values. Raises UnknownTask."""
        return await self.enqueue(self._by_name(name, values), connection=connection, **options)

    async def enqueue_many(
        self,
        tasks: Iterable[Task[R]],
        *,
        spacing: timedelta | None = None,
        connection: psycopg.AsyncConnection[Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> builtins.list[AsyncTaskHandle[R]]:
        """Insert all of them or none, as Queue.enqueue_many does."""
        requests = prepare_many(tasks, options, spacing, self.settings)
        if not requests:
            return []
        connection = self._bound if connection is None else connection
        if connection is None:
            inserted = await self._enqueue_many_own(requests)
        else:
            inserted = await arun_joined(connection, operations.enqueue_many(self._sql, requests))
        pairs, committed = zip(inserted, requests, strict=True), connection is None
        with collector_paused():
            return [AsyncTaskHandle(self, one, request.type, committed=committed) for one, request in pairs]

    async def get(self, task: uuid.UUID | str | AsyncTaskHandle[Any]) -> TaskRecord | None:
        """A task by its id, wherever it lives; None when nothing is stored of it."""
        task_id = _id(task)
        return await self._run(lambda: operations.get(self._sql, task_id))

    async def attempts(self, task: uuid.UUID | str | AsyncTaskHandle[Any]) -> builtins.list[AttemptRecord]:
        """The failed attempts of a task, first to last."""
        task_id = _id(task)
        return await self._run(lambda: operations.attempts(self._sql, task_id))

    async def list(
        self,
        *,
        status: Status | str | Iterable[Status | str] | None = None,
        type: str | None = None,
        queue: str | None = None,
        created_after: datetime | None = None,
        tags: Sequence[str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> TaskPage:
        """Tasks that match, newest first, a page of up to 1,000. `cursor` is that of the page before."""
        page = check_page(self._pick(status, type, queue, tags), created_after=created_after, limit=limit, cursor=cursor)
        return await self._run(lambda: operations.list_tasks(self._sql, page))

    async def depth(self, queue: str | None = None) -> int:
        """How many tasks are ready to run, in one queue or in all; counted exactly."""
        name = check_queue(queue)
        return await self._run(lambda: operations.depth(self._sql, name))

    async def counts(self, queue: str | None = None) -> dict[str, dict[Status, int]]:
        """Unfinished and dead tasks by queue and status. Finished ones are not counted: the cost does not grow with history."""
        name = check_queue(queue)
        return await self._run(lambda: operations.counts(self._sql, name))

    async def cancel(self, task: AsyncTaskHandle[Any] | uuid.UUID | str, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        task_id, because = _id(task), check_reason(reason)
        if isinstance(task, AsyncTaskHandle):
            queue = task.queue_name
        else:
            queue = _found(await self._run(lambda: operations.get(self._sql, task_id)), task_id).queue
        return await self._pool.perform(lambda repeated: operations.cancel(self._sql, queue, task_id, because, repeated=repeated))

    async def cancel_all(
        self,
        *,
        status: Status | str | Iterable[Status | str] | None = None,
        type: str | None = None,
        queue: str | None = None,
        tags: Sequence[str] | None = None,
        reason: str | None = None,
    ) -> int:
        """Cancel every unfinished task that matches and was there at the call; running ones are asked. Returns how many."""
        wanted, because = check_unfinished(self._pick(status, type, queue, tags)), check_reason(reason)
        return await self._run(lambda: operations.cancel_all(self._sql, wanted, because))

    async def queues(self) -> builtins.list[QueueRecord]:
        """The queues that hold unfinished tasks or have settings, by name."""
        return await self._run(lambda: operations.queues(self._sql))

    async def configure(self, name: str, **options: Unpack[QueueOptions]) -> QueueRecord:
        """Set how a queue is worked off, as Queue.configure does."""
        queue, checked = check_name(name, "queue"), check_queue_options(options)
        return await self._run(lambda: operations.configure(self._sql, queue, checked))

    @property
    def types(self) -> AsyncTypes:
        """The task types, and what operators set of them, as Queue.types gives it."""
        return AsyncTypes(self)

    async def run_now(self, task: Task[R]) -> R:
        """Run a task here and now, without the database: for scripts and tests. Its exception comes out as it is."""
        from pgqueue.eager import arun_eagerly

        result: R = await arun_eagerly(self, task)
        return result

    async def _enqueue_own(self, request: Request) -> Inserted:
        try:
            return await self._pool.perform(
                lambda repeated: operations.enqueue(self._sql, request, repeated=repeated),
                needs_transaction=lambda repeated: operations.is_atomic(request, repeated=repeated),
            )
        except AlreadyEnqueued:
            return Inserted(request.id, request.queue, created=True)

    async def _enqueue_many_own(self, requests: Sequence[Request]) -> builtins.list[Inserted]:
        try:
            return await self._pool.perform(
                lambda repeated: operations.enqueue_many(self._sql, requests, repeated=repeated),
                needs_transaction=lambda repeated: True,
                is_repeatable=operations.is_repeatable(requests),
            )
        except AlreadyEnqueued:
            return [Inserted(request.id, request.queue, created=True) for request in requests]

    def _connection(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._pool.connection()

    async def _run(self, operation: Callable[[], Operation[RV]]) -> RV:
        """What may be done again as it is: reading, above all."""
        return await self._pool.perform(lambda repeated: operation())


def _checked_size(pool_size: object) -> int:
    if isinstance(pool_size, bool) or not isinstance(pool_size, int) or pool_size < 1:
        raise ConfigurationError(f"pool_size takes 1 or more, not {pool_size!r}")
    return pool_size


def _id(task: object) -> uuid.UUID:
    return check_id(task.id if isinstance(task, TaskHandle | AsyncTaskHandle | TaskRecord) else task)


def _found(record: TaskRecord | None, task_id: uuid.UUID) -> TaskRecord:
    if record is None:
        raise TaskNotFound(f"task {task_id} is not stored")
    return record
