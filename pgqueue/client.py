"""`Queue` and `AsyncQueue`: where a task's way begins. Both speak the same operations (operations.py), one blocking, one not.

    client → enqueue.sql → claim.sql → worker → executor → states → completer → settle.sql

An enqueue given `connection=` joins the caller's transaction and never commits it. Without one it uses the client's own pool, and
repeats itself by the task's id when the connection is lost, so that a restart of the server costs time and no task.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import pq
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout
from typing_extensions import Self, Unpack

from pgqueue import operations, payload
from pgqueue.database import (
    AsyncConnection,
    Connection,
    Operation,
    arun,
    connection_parameters,
    is_lost,
    run,
)
from pgqueue.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    ResultTimeout,
    TaskCancelled,
    TaskDead,
    TaskDeleted,
    TaskIgnored,
    TaskNotFound,
)
from pgqueue.operations import AlreadyEnded, Filter, Inserted, Standing
from pgqueue.preparation import prepare, prepare_many
from pgqueue.records import AttemptRecord, TaskPage, TaskRecord
from pgqueue.registry import Registry
from pgqueue.registry import registry as default_registry
from pgqueue.requests import EnqueueOptions, Request, check_instant
from pgqueue.server import Server, find_server
from pgqueue.settings import Settings, load
from pgqueue.statements import statements
from pgqueue.states import UNFINISHED, Status
from pgqueue.task import Task

R = TypeVar("R")
RV = TypeVar("RV")

POOL_SIZE_DEFAULT = 4
POOL_TIMEOUT_SECONDS = 10.0
ENQUEUE_REPEAT_SECONDS = 10.0
"""For so long an enqueue whose connection was lost is repeated."""
RESULT_POLL_MIN_SECONDS = 0.002
RESULT_POLL_MAX_SECONDS = 0.25
PAGE_MAX = 1_000


class TaskHandle(Generic[R]):
    """A task that was enqueued, or that stood in its place. Cheap: it holds an id and its queue."""

    def __init__(self, queue: Queue, inserted: Inserted, type_name: str, *, committed: bool) -> None:
        self.id = inserted.id
        """The task's id, a UUIDv7."""
        self.queue_name = inserted.queue
        self.created = inserted.created
        """False: an unfinished task held the unique key, or the idempotency key was known; this is that task."""
        self.type = type_name
        self._queue = queue
        self._committed = committed

    def status(self) -> Status | None:
        """Where the task stands now; None before its transaction has committed, and when nothing is kept of it."""
        found = self._queue._run(operations.standing(self._queue._sql, self.queue_name, self.id))
        return None if found is None else found.status

    def result(self, timeout: float | timedelta | None = None) -> R:
        """Wait for the result: what `run` returned, as the R of `Task[R]`. `timeout` in seconds; None waits for ever.

        Raises TaskDead, TaskCancelled, TaskIgnored or TaskDeleted when there is none, ResultTimeout when it takes longer,
        TaskNotFound when the task ended and its history is not kept.
        """
        for delay in _polls(_seconds(timeout)):
            found = self._queue._run(operations.standing(self._queue._sql, self.queue_name, self.id))
            if _has_ended(found, self):
                result: R = _result(self._queue._registry, found, self)
                return result
            time.sleep(delay)
        raise _result_timeout(self, timeout)

    def cancel(self, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        return self._queue.cancel(self, reason)

    def __repr__(self) -> str:
        return f"<TaskHandle {self.type} {self.id}{'' if self.created else ' (existing)'}>"


class AsyncTaskHandle(Generic[R]):
    """A task that was enqueued, or that stood in its place; the same as TaskHandle with awaitable methods."""

    def __init__(self, queue: AsyncQueue, inserted: Inserted, type_name: str, *, committed: bool) -> None:
        self.id = inserted.id
        self.queue_name = inserted.queue
        self.created = inserted.created
        self.type = type_name
        self._queue = queue
        self._committed = committed

    async def status(self) -> Status | None:
        """Where the task stands now; None before its transaction has committed, and when nothing is kept of it."""
        found = await self._queue._run(operations.standing(self._queue._sql, self.queue_name, self.id))
        return None if found is None else found.status

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """Wait for the result, as TaskHandle.result does."""
        for delay in _polls(_seconds(timeout)):
            found = await self._queue._run(operations.standing(self._queue._sql, self.queue_name, self.id))
            if _has_ended(found, self):
                result: R = _result(self._queue._registry, found, self)
                return result
            await asyncio.sleep(delay)
        raise _result_timeout(self, timeout)

    async def cancel(self, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        return await self._queue.cancel(self, reason)

    def __repr__(self) -> str:
        return f"<AsyncTaskHandle {self.type} {self.id}{'' if self.created else ' (existing)'}>"


class _Client:
    """What both clients are made of: settings, statements, the registry, and the server once it is found."""

    def __init__(
        self,
        dsn: str | None = None,
        *,
        schema: str | None = None,
        pool_size: int = POOL_SIZE_DEFAULT,
        settings: Settings | None = None,
        registry: Registry | None = None,
    ) -> None:
        if pool_size < 1:
            raise ConfigurationError(f"pool_size takes 1 or more, not {pool_size}")
        self.settings = settings or load(schema=schema)
        self.schema = schema or self.settings.db_schema
        self._dsn = dsn
        self._pool_size = pool_size
        self._registry = default_registry if registry is None else registry
        self._sql = statements(self.schema)
        self._server: Server | None = None
        self._bound: Any = None

    @property
    def registry(self) -> Registry:
        """The task types this client knows by name."""
        return self._registry

    @property
    def dsn(self) -> str:
        """The server's address; an embedded server is started or joined by asking."""
        if self._server is None:
            self._server = find_server(self._dsn, self.settings)
        return self._server.dsn

    def bound(self, connection: Any) -> Self:
        """This client with another default: every enqueue joins the transaction of `connection`."""
        twin = copy(self)
        twin._bound = connection
        return twin

    def _by_name(self, name: str, values: dict[str, Any] | None) -> Task[Any]:
        return payload.validate(self._registry.get(name), values or {})

    def _let_go(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class Queue(_Client):
    """The blocking client. `with Queue() as queue:` uses DATABASE_URL, else the embedded PostgreSQL, and says which.

    Safe to share between threads; opens its connections (`pool_size` at most) when first used.
    """

    _pool: ConnectionPool[Connection] | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        """Find the server and open the pool. Called by the first use; raises DatabaseUnavailable when nobody answers."""
        if self._pool is None:
            pool: ConnectionPool[Connection] = ConnectionPool(
                connection_class=Connection,
                **_pool_arguments(self.dsn),
                min_size=0 if self._pool_size == 1 else 1,
                max_size=self._pool_size,
                timeout=POOL_TIMEOUT_SECONDS,
                open=False,
                name="pgqueue",
            )
            pool.open()
            self._pool = pool

    def close(self) -> None:
        """Close the connections, and let go of an embedded server. Tasks are not touched."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._let_go()

    def migrate(self) -> None:
        """Create the schema, or bring it up to this version. Safe while runners run, and in several processes at once."""
        from pgqueue.migrations import migrate

        migrate(self.dsn, schema=self.schema)

    def enqueue(self, task: Task[R], **options: Unpack[EnqueueOptions]) -> TaskHandle[R]:
        """Insert a task; higher `priority` runs first, within one priority the earlier maturity, then the earlier id.

        delay (from now) or at (an aware datetime); expires: not started by then, it is cancelled; unique, idempotency_key: a
        duplicate gives the existing task's handle with `created` False; timeout, retry, priority, queue, tags override the type's.
        With `connection` (psycopg) it joins that transaction and never commits; without, it has committed when it returns.
        Raises ConfigurationError, PayloadError, EnqueueConflict, SchemaError, DatabaseUnavailable.
        """
        request = prepare(task, options, self.settings)
        connection = options.get("connection") or self._bound
        inserted = self._enqueue_own(request) if connection is None else self._enqueue_joined(request, connection)
        return TaskHandle(self, inserted, request.type, committed=connection is None)

    def enqueue_by_name(self, name: str, values: dict[str, Any] | None = None, **options: Unpack[EnqueueOptions]) -> TaskHandle[Any]:
        """Enqueue by the type's name (case, `-` and `_` do not matter) and its payload's values. Raises UnknownTask."""
        return self.enqueue(self._by_name(name, values), **options)

    def enqueue_many(
        self, tasks: Iterable[Task[R]], *, spacing: timedelta | None = None, **options: Unpack[EnqueueOptions]
    ) -> list[TaskHandle[R]]:
        """Insert all of them or none, in one transaction; the handles come in the order of the tasks.

        From 300 tasks without keys on they travel by COPY. `spacing`: each matures that much later than the one before.
        """
        requests = prepare_many(list(tasks), options, spacing, self.settings)
        if not requests:
            return []
        connection = options.get("connection") or self._bound
        if connection is None:
            with self._connection() as own, own.transaction():
                inserted = run(own, operations.enqueue_many(self._sql, requests))
        else:
            with _joined(connection):
                inserted = run(connection, operations.enqueue_many(self._sql, requests))
        return [
            TaskHandle(self, one, request.type, committed=connection is None)
            for one, request in zip(inserted, requests, strict=True)
        ]  # fmt: skip

    def get(self, task: uuid.UUID | str | TaskHandle[Any]) -> TaskRecord | None:
        """A task by its id, wherever it lives; None when nothing is stored of it."""
        return self._run(operations.get(self._sql, _id(task)))

    def attempts(self, task: uuid.UUID | str | TaskHandle[Any]) -> list[AttemptRecord]:
        """The failed attempts of a task, first to last."""
        return self._run(operations.attempts(self._sql, _id(task)))

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
        return self._run(operations.list_tasks(self._sql, **_page(self._registry, status, type, queue, tags, created_after, limit, cursor)))

    def depth(self, queue: str | None = None) -> int:
        """How many tasks are ready to run, in one queue or in all; counted exactly."""
        return self._run(operations.depth(self._sql, queue))

    def counts(self, queue: str | None = None) -> dict[str, dict[Status, int]]:
        """Unfinished and dead tasks by queue and status. Finished ones are not counted: the cost does not grow with history."""
        return self._run(operations.counts(self._sql, queue))

    def cancel(self, task: TaskHandle[Any] | uuid.UUID | str, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        task_id, queue = _id(task), getattr(task, "queue_name", None) or self._queue_of(_id(task))
        return self._run(operations.cancel(self._sql, queue, task_id, reason))

    def cancel_all(
        self,
        *,
        status: Status | str | Iterable[Status | str] | None = None,
        type: str | None = None,
        queue: str | None = None,
        tags: Sequence[str] | None = None,
        reason: str | None = None,
    ) -> int:
        """Cancel every unfinished task that matches and was there when the call began; running ones are asked. Returns how many."""
        return self._run(operations.cancel_all(self._sql, _unfinished(self._registry, status, type, queue, tags), reason))

    def run_now(self, task: Task[R]) -> R:
        """Run a task here and now, without the database: for scripts and tests. Its exception comes out as it is."""
        from pgqueue.eager import run_eagerly

        result: R = run_eagerly(self, task)
        return result

    def _queue_of(self, task_id: uuid.UUID) -> str:
        return _found(self._run(operations.get(self._sql, task_id)), task_id).queue

    def _enqueue_own(self, request: Request) -> Inserted:
        deadline, repeated = time.monotonic() + ENQUEUE_REPEAT_SECONDS, False
        while True:
            try:
                with self._connection() as connection:
                    operation = operations.enqueue(self._sql, request, repeated=repeated)
                    if not operations.is_atomic([request], repeated=repeated):
                        return run(connection, operation)
                    with connection.transaction():
                        return run(connection, operation)
            except AlreadyEnded:
                return Inserted(request.id, request.queue, created=True)
            except (DatabaseUnavailable, psycopg.Error) as error:
                if not is_lost(error):
                    raise
                if time.monotonic() > deadline:
                    raise _unavailable(error) from error
                repeated = True
                time.sleep(random.uniform(0.05, 0.2))

    def _enqueue_joined(self, request: Request, connection: Any) -> Inserted:
        with _joined(connection):
            return run(connection, operations.enqueue(self._sql, request))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        self.open()
        assert self._pool is not None
        with self._pool.connection() as connection:
            yield connection

    def _run(self, operation: Operation[RV]) -> RV:
        try:
            with self._connection() as connection:
                return run(connection, operation)
        except PoolTimeout as error:
            raise _unavailable(error) from error


class AsyncQueue(_Client):
    """The asyncio client: the same methods as `Queue`, awaitable. `async with AsyncQueue() as queue:`.

    Belongs to one event loop.
    """

    _pool: AsyncConnectionPool[AsyncConnection] | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def open(self) -> None:
        """Find the server and open the pool. Called by the first use; raises DatabaseUnavailable when nobody answers."""
        if self._pool is None:
            dsn = self.dsn if self._server or self._dsn or self.settings.database_url else await asyncio.to_thread(lambda: self.dsn)
            pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
                connection_class=AsyncConnection,
                **_pool_arguments(dsn),
                min_size=0 if self._pool_size == 1 else 1,
                max_size=self._pool_size,
                timeout=POOL_TIMEOUT_SECONDS,
                open=False,
                name="pgqueue",
            )
            self._pool = pool
            await pool.open()

    async def close(self) -> None:
        """Close the connections, and let go of an embedded server. Tasks are not touched."""
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        self._let_go()

    async def migrate(self) -> None:
        """Create the schema, or bring it up to this version. Safe while runners run, and in several processes at once."""
        from pgqueue.migrations import migrate

        await asyncio.to_thread(lambda: migrate(self.dsn, schema=self.schema))

    async def enqueue(self, task: Task[R], **options: Unpack[EnqueueOptions]) -> AsyncTaskHandle[R]:
        """Insert a task, as Queue.enqueue does; `connection` is an async psycopg connection."""
        request = prepare(task, options, self.settings)
        connection = options.get("connection") or self._bound
        inserted = await (self._enqueue_own(request) if connection is None else self._enqueue_joined(request, connection))
        return AsyncTaskHandle(self, inserted, request.type, committed=connection is None)

    async def enqueue_by_name(
        self, name: str, values: dict[str, Any] | None = None, **options: Unpack[EnqueueOptions]
    ) -> AsyncTaskHandle[Any]:
        """Enqueue by the type's name (case, `-` and `_` do not matter) and its payload's values. Raises UnknownTask."""
        return await self.enqueue(self._by_name(name, values), **options)

    async def enqueue_many(
        self, tasks: Iterable[Task[R]], *, spacing: timedelta | None = None, **options: Unpack[EnqueueOptions]
    ) -> list[AsyncTaskHandle[R]]:
        """Insert all of them or none, as Queue.enqueue_many does."""
        requests = prepare_many(list(tasks), options, spacing, self.settings)
        if not requests:
            return []
        connection = options.get("connection") or self._bound
        if connection is None:
            async with self._connection() as own, own.transaction():
                inserted = await arun(own, operations.enqueue_many(self._sql, requests))
        else:
            async with _ajoined(connection):
                inserted = await arun(connection, operations.enqueue_many(self._sql, requests))
        return [
            AsyncTaskHandle(self, one, request.type, committed=connection is None)
            for one, request in zip(inserted, requests, strict=True)
        ]  # fmt: skip

    async def get(self, task: uuid.UUID | str | AsyncTaskHandle[Any]) -> TaskRecord | None:
        """A task by its id, wherever it lives; None when nothing is stored of it."""
        return await self._run(operations.get(self._sql, _id(task)))

    async def attempts(self, task: uuid.UUID | str | AsyncTaskHandle[Any]) -> list[AttemptRecord]:
        """The failed attempts of a task, first to last."""
        return await self._run(operations.attempts(self._sql, _id(task)))

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
        page = _page(self._registry, status, type, queue, tags, created_after, limit, cursor)
        return await self._run(operations.list_tasks(self._sql, **page))

    async def depth(self, queue: str | None = None) -> int:
        """How many tasks are ready to run, in one queue or in all; counted exactly."""
        return await self._run(operations.depth(self._sql, queue))

    async def counts(self, queue: str | None = None) -> dict[str, dict[Status, int]]:
        """Unfinished and dead tasks by queue and status. Finished ones are not counted: the cost does not grow with history."""
        return await self._run(operations.counts(self._sql, queue))

    async def cancel(self, task: AsyncTaskHandle[Any] | uuid.UUID | str, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        task_id = _id(task)
        queue = getattr(task, "queue_name", None) or _found(await self._run(operations.get(self._sql, task_id)), task_id).queue
        return await self._run(operations.cancel(self._sql, queue, task_id, reason))

    async def cancel_all(
        self,
        *,
        status: Status | str | Iterable[Status | str] | None = None,
        type: str | None = None,
        queue: str | None = None,
        tags: Sequence[str] | None = None,
        reason: str | None = None,
    ) -> int:
        """Cancel every unfinished task that matches and was there when the call began; running ones are asked. Returns how many."""
        return await self._run(operations.cancel_all(self._sql, _unfinished(self._registry, status, type, queue, tags), reason))

    async def run_now(self, task: Task[R]) -> R:
        """Run a task here and now, without the database: for scripts and tests. Its exception comes out as it is."""
        from pgqueue.eager import arun_eagerly

        result: R = await arun_eagerly(self, task)
        return result

    async def _enqueue_own(self, request: Request) -> Inserted:
        deadline, repeated = time.monotonic() + ENQUEUE_REPEAT_SECONDS, False
        while True:
            try:
                async with self._connection() as connection:
                    operation = operations.enqueue(self._sql, request, repeated=repeated)
                    if not operations.is_atomic([request], repeated=repeated):
                        return await arun(connection, operation)
                    async with connection.transaction():
                        return await arun(connection, operation)
            except AlreadyEnded:
                return Inserted(request.id, request.queue, created=True)
            except (DatabaseUnavailable, psycopg.Error) as error:
                if not is_lost(error):
                    raise
                if time.monotonic() > deadline:
                    raise _unavailable(error) from error
                repeated = True
                await asyncio.sleep(random.uniform(0.05, 0.2))

    async def _enqueue_joined(self, request: Request, connection: Any) -> Inserted:
        async with _ajoined(connection):
            return await arun(connection, operations.enqueue(self._sql, request))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        await self.open()
        assert self._pool is not None
        async with self._pool.connection() as connection:
            yield connection

    async def _run(self, operation: Operation[RV]) -> RV:
        try:
            async with self._connection() as connection:
                return await arun(connection, operation)
        except PoolTimeout as error:
            raise _unavailable(error) from error


@contextmanager
def _joined(connection: Any) -> Iterator[None]:
    """The caller's transaction; an autocommit connection outside of one gets one for the length of the call."""
    if isinstance(connection, psycopg.AsyncConnection):
        raise ConfigurationError("this is the blocking Queue and the connection is an async one: use AsyncQueue, or a psycopg.Connection")
    if not isinstance(connection, psycopg.Connection):
        raise ConfigurationError(f"connection takes a psycopg.Connection, not {type(connection).__module__}.{type(connection).__name__}")
    if connection.autocommit and connection.info.transaction_status == pq.TransactionStatus.IDLE:
        with connection.transaction():
            yield
    else:
        yield


@asynccontextmanager
async def _ajoined(connection: Any) -> AsyncIterator[None]:
    """The caller's transaction; an autocommit connection outside of one gets one for the length of the call."""
    if isinstance(connection, psycopg.Connection):
        raise ConfigurationError("this is AsyncQueue and the connection is a blocking one: use Queue, or a psycopg.AsyncConnection")
    if not isinstance(connection, psycopg.AsyncConnection):
        raise ConfigurationError(f"connection takes a psycopg.AsyncConnection, not {type(connection).__module__}.{type(connection).__name__}")
    if connection.autocommit and connection.info.transaction_status == pq.TransactionStatus.IDLE:
        async with connection.transaction():
            yield
    else:
        yield


def _polls(timeout: float | None) -> Iterator[float]:
    """Growing pauses between looks for a result, until the timeout; always one look at least, and one at its end."""
    deadline = None if timeout is None else time.monotonic() + timeout
    delay = RESULT_POLL_MIN_SECONDS
    while True:
        left = delay if deadline is None else min(delay, deadline - time.monotonic())
        yield max(0.0, left)
        if deadline is not None and left <= 0:
            return
        delay = min(RESULT_POLL_MAX_SECONDS, delay * 1.3)


def _seconds(timeout: float | timedelta | None) -> float | None:
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


def _has_ended(found: Standing | None, handle: TaskHandle[Any] | AsyncTaskHandle[Any]) -> bool:
    """A task whose insert has committed and that is nowhere has ended, and nothing was kept of it."""
    return handle._committed if found is None else found.status not in UNFINISHED


def _result(registry: Registry, found: Standing | None, handle: TaskHandle[Any] | AsyncTaskHandle[Any]) -> Any:
    what = f"{handle.type} {handle.id}"
    if found is None:
        raise TaskNotFound(f"{what} has ended and nothing is kept of it: its type says history=False, or its history was dropped")
    if found.status is Status.SUCCEEDED:
        return payload.decode_result(registry.find(handle.type), found.result)
    because = f": {found.reason}" if found.reason else ""
    errors = {Status.DEAD: TaskDead, Status.CANCELLED: TaskCancelled, Status.IGNORED: TaskIgnored, Status.DELETED: TaskDeleted}
    verb = "is dead" if found.status is Status.DEAD else f"was {found.status}"
    raise errors[found.status](f"{what} {verb}{because}", error=found.reason)


def _result_timeout(handle: TaskHandle[Any] | AsyncTaskHandle[Any], timeout: float | timedelta | None) -> ResultTimeout:
    return ResultTimeout(f"{handle.type} {handle.id} did not end within {_seconds(timeout):g} s; is a runner at work on queue {handle.queue_name!r}?")


def _pool_arguments(dsn: str) -> dict[str, Any]:
    parameters = connection_parameters(dsn)
    return {"conninfo": parameters.pop("conninfo"), "kwargs": parameters}


def _unavailable(error: BaseException) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"PostgreSQL cannot be reached: {str(error).strip().partition(chr(10))[0]}")


def _id(task: Any) -> uuid.UUID:
    value = getattr(task, "id", task)
    try:
        return value if isinstance(value, uuid.UUID) else uuid.UUID(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{value!r} is no task id: it takes a UUID") from error


def _found(record: TaskRecord | None, task_id: uuid.UUID) -> TaskRecord:
    if record is None:
        raise TaskNotFound(f"task {task_id} is not stored")
    return record


def _statuses(status: Status | str | Iterable[Status | str] | None) -> tuple[Status, ...] | None:
    if status is None:
        return None
    try:
        return tuple(Status(one) for one in ([status] if isinstance(status, str) else status))
    except ValueError as error:
        raise ConfigurationError(f"{error}; a status is one of {', '.join(Status)}") from error


def _canonical(registry: Registry, type: str | None) -> str | None:
    known = None if type is None else registry.find(type)
    return type if known is None else known.name


def _filter(registry: Registry, status: Any, type: str | None, queue: str | None, tags: Sequence[str] | None) -> Filter:
    return Filter(_statuses(status), queue, _canonical(registry, type), None if tags is None else tuple(tags))


def _unfinished(registry: Registry, status: Any, type: str | None, queue: str | None, tags: Sequence[str] | None) -> Filter:
    wanted = _statuses(status) or tuple(sorted(UNFINISHED))
    if ended := [one for one in wanted if one not in UNFINISHED]:
        raise ConfigurationError(f"cancel_all takes unfinished statuses ({', '.join(sorted(UNFINISHED))}), not {ended[0]}")
    return _filter(registry, wanted, type, queue, tags)


def _page(
    registry: Registry,
    status: Any,
    type: str | None,
    queue: str | None,
    tags: Sequence[str] | None,
    created_after: datetime | None,
    limit: int,
    cursor: str | None,
) -> dict[str, Any]:
    if not 1 <= limit <= PAGE_MAX:
        raise ConfigurationError(f"limit takes 1 to {PAGE_MAX}, not {limit}")
    return {
        "wanted": _filter(registry, status, type, queue, tags),
        "created_after": None if created_after is None else check_instant(created_after, "created_after"),
        "limit": limit,
        "before": None if cursor is None else _id(cursor),
    }
