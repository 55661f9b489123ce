"""`Queue` and `AsyncQueue`: where a task's way begins. Both speak the same operations (operations.py), one blocking, one not.

    client → enqueue.sql → claim.sql → worker → executor → states → completer → settle.sql

An enqueue given `connection=` joins the caller's transaction and never commits it. Without one it uses the client's own pool, and
repeats itself by the task's id when the connection is lost, so that a restart of the server costs time and no task.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from copy import copy
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from psycopg import pq
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout
from typing_extensions import Unpack

from pgqueue import operations, payload
from pgqueue.database import (
    AsyncConnection,
    Connection,
    Operation,
    Patience,
    arun,
    connection_parameters,
    is_lost,
    is_rolled_back,
    run,
    unavailable,
)
from pgqueue.errors import ConfigurationError, DatabaseUnavailable, TaskNotFound
from pgqueue.handles import AsyncTaskHandle, TaskHandle
from pgqueue.operations import AlreadyEnqueued, Filter, Inserted
from pgqueue.preparation import prepare, prepare_many
from pgqueue.records import AttemptRecord, TaskPage, TaskRecord
from pgqueue.registry import Registry
from pgqueue.registry import registry as default_registry
from pgqueue.requests import REASON_MAX, EnqueueOptions, Request, check_instant, check_name, check_tags, check_text
from pgqueue.server import Server, find_server
from pgqueue.settings import Settings, load
from pgqueue.statements import statements
from pgqueue.states import UNFINISHED, Status
from pgqueue.task import Task

__all__ = ["AsyncQueue", "AsyncTaskHandle", "Queue", "TaskHandle"]

R = TypeVar("R")
RV = TypeVar("RV")

POOL_SIZE_DEFAULT = 4
POOL_TIMEOUT_SECONDS = 10.0
PAGE_MAX = 1_000


class _Shared:
    """What a client and its `bound` twins have in common: the server and the pool, once they are found and open."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.pool: Any = None
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.async_lock = asyncio.Lock()


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
        if isinstance(pool_size, bool) or not isinstance(pool_size, int) or pool_size < 1:
            raise ConfigurationError(f"pool_size takes 1 or more, not {pool_size!r}")
        self.settings = load(schema=schema) if settings is None else settings
        self.schema = self.settings.db_schema if schema is None else schema
        self._dsn = dsn
        self._pool_size = pool_size
        self._registry = default_registry if registry is None else registry
        self._sql = statements(self.schema)
        self._shared = _Shared()
        self._bound: Any = None

    @property
    def registry(self) -> Registry:
        """The task types this client knows by name."""
        return self._registry

    @property
    def dsn(self) -> str:
        """The server's address; an embedded server is started or joined by asking."""
        with self._shared.lock:
            if self._shared.server is None:
                self._shared.server = find_server(self._dsn, self.settings)
            return self._shared.server.dsn

    def bound(self, connection: Any) -> Self:
        """This client with another default: every enqueue joins the transaction of `connection`. The pool is shared."""
        twin = copy(self)
        twin._bound = connection
        return twin

    def _by_name(self, name: str, values: dict[str, Any] | None) -> Task[Any]:
        return payload.validate(self._registry.get(name), values or {})

    def _let_go(self) -> None:
        if self._shared.server is not None:
            self._shared.server.close()
            self._shared.server = None


class Queue(_Client):
    """The blocking client. `with Queue() as queue:` uses DATABASE_URL, else the embedded PostgreSQL, and says which.

    Safe to share between threads; opens its connections (`pool_size` at most) when first used.
    """

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        """Find the server and open the pool. Called by the first use; raises DatabaseUnavailable, at once, when nobody answers."""
        self._opened()

    def _opened(self) -> ConnectionPool[Connection]:
        shared = self._shared
        with shared.lock:
            if shared.pool is None or shared.pid != os.getpid():  # after a fork the parent's connections are not ours
                parameters = connection_parameters(self.dsn)
                try:
                    Connection.connect(**parameters).close()  # a pool does not say why it cannot connect
                except psycopg.OperationalError as error:
                    raise unavailable(error) from error
                pool: ConnectionPool[Connection] = ConnectionPool(
                    connection_class=Connection, **_pool_arguments(parameters, self._pool_size)
                )
                pool.open()
                shared.pool, shared.pid = pool, os.getpid()
            result: ConnectionPool[Connection] = shared.pool
            return result

    def close(self) -> None:
        """Close the connections, and let go of an embedded server. Tasks are not touched."""
        with self._shared.lock:
            pool, self._shared.pool = self._shared.pool, None
            if pool is not None and self._shared.pid == os.getpid():
                pool.close()
            self._let_go()

    def migrate(self) -> None:
        """Create the schema, or bring it up to this version. Safe while runners run, and in several processes at once."""
        from pgqueue.migrations import migrate

        migrate(self.dsn, schema=self.schema)

    def enqueue(
        self, task: Task[R], *, connection: psycopg.Connection[Any] | None = None, **options: Unpack[EnqueueOptions]
    ) -> TaskHandle[R]:
        """Insert a task; higher `priority` runs first, within one priority the earlier maturity, then the earlier id.

        delay (from now) or at (an aware datetime); expires: not started by then, it is cancelled; unique, idempotency_key: a
        duplicate gives the existing task's handle with `created` False; timeout, retry, priority, queue, tags override the type's.
        With `connection` (psycopg) it joins that transaction and never commits; without, it has committed when it returns.
        Raises ConfigurationError, PayloadError, EnqueueConflict, SchemaError, DatabaseUnavailable.
        """
        request = prepare(task, options, self.settings)
        connection = self._bound if connection is None else connection
        inserted = self._enqueue_own(request) if connection is None else self._enqueue_joined(request, connection)
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
            with _joined(connection):
                inserted = run(connection, operations.enqueue_many(self._sql, requests))
        committed = connection is None
        return [TaskHandle(self, one, request.type, committed=committed) for one, request in zip(inserted, requests, strict=True)]

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
        page = _page(self._registry, status, type, queue, tags, created_after, limit, cursor)
        return self._run(lambda: operations.list_tasks(self._sql, **page))

    def depth(self, queue: str | None = None) -> int:
        """How many tasks are ready to run, in one queue or in all; counted exactly."""
        name = _queue_name(queue)
        return self._run(lambda: operations.depth(self._sql, name))

    def counts(self, queue: str | None = None) -> dict[str, dict[Status, int]]:
        """Unfinished and dead tasks by queue and status. Finished ones are not counted: the cost does not grow with history."""
        name = _queue_name(queue)
        return self._run(lambda: operations.counts(self._sql, name))

    def cancel(self, task: TaskHandle[Any] | uuid.UUID | str, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        task_id, because = _id(task), _reason(reason)
        if isinstance(task, TaskHandle):
            queue = task.queue_name
        else:
            queue = _found(self._run(lambda: operations.get(self._sql, task_id)), task_id).queue
        return self._perform(lambda repeated: operations.cancel(self._sql, queue, task_id, because, repeated=repeated))

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
        wanted, because = _unfinished(self._registry, status, type, queue, tags), _reason(reason)
        return self._run(lambda: operations.cancel_all(self._sql, wanted, because))

    def run_now(self, task: Task[R]) -> R:
        """Run a task here and now, without the database: for scripts and tests. Its exception comes out as it is."""
        from pgqueue.eager import run_eagerly

        result: R = run_eagerly(self, task)
        return result

    def _enqueue_own(self, request: Request) -> Inserted:
        try:
            return self._perform(
                lambda repeated: operations.enqueue(self._sql, request, repeated=repeated),
                atomic=lambda repeated: operations.is_atomic(request, repeated=repeated),
            )
        except AlreadyEnqueued:
            return Inserted(request.id, request.queue, created=True)

    def _enqueue_many_own(self, requests: Sequence[Request]) -> builtins.list[Inserted]:
        try:
            return self._perform(
                lambda repeated: operations.enqueue_many(self._sql, requests, repeated=repeated),
                atomic=lambda repeated: True,
                repeatable=operations.is_repeatable(requests),
            )
        except AlreadyEnqueued:
            return [Inserted(request.id, request.queue, created=True) for request in requests]

    def _enqueue_joined(self, request: Request, connection: Any) -> Inserted:
        with _joined(connection):
            return run(connection, operations.enqueue(self._sql, request))

    def _perform(
        self,
        operation: Callable[[bool], Operation[RV]],
        *,
        atomic: Callable[[bool], bool] = lambda repeated: False,
        repeatable: bool = True,
    ) -> RV:
        """Drive an operation over a connection of the pool, and again over another one if that is lost.

        `operation` and `atomic` (does it need a transaction?) are asked anew each time, with whether an attempt may have
        committed before. Not `repeatable`: only what is known to have been rolled back is done again.
        """
        patience, repeated = Patience(), False
        while True:
            try:
                with self._connection() as connection:
                    if not atomic(repeated):
                        return run(connection, operation(repeated))
                    with connection.transaction():
                        return run(connection, operation(repeated))
            except (psycopg.Error, DatabaseUnavailable) as error:
                repeated = _is_repeated(error, repeated, repeatable)
                pause = patience.pause_after(error)
            time.sleep(pause)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        pool = self._opened()
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(pool.connection())
            except PoolTimeout as error:
                raise _exhausted(self._pool_size) from error
            yield connection

    def _run(self, operation: Callable[[], Operation[RV]]) -> RV:
        return self._perform(lambda repeated: operation())


class AsyncQueue(_Client):
    """The asyncio client: the same methods as `Queue`, awaitable. `async with AsyncQueue() as queue:`.

    Belongs to one event loop.
    """

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def open(self) -> None:
        """Find the server and open the pool. Called by the first use; raises DatabaseUnavailable, at once, when nobody answers."""
        await self._opened()

    async def _opened(self) -> AsyncConnectionPool[AsyncConnection]:
        shared = self._shared
        if shared.pool is None:
            async with shared.async_lock:
                if shared.pool is None:
                    shared.pool = await self._open_pool()
        result: AsyncConnectionPool[AsyncConnection] = shared.pool
        return result

    async def _open_pool(self) -> AsyncConnectionPool[AsyncConnection]:
        # An embedded server takes seconds to start: not on the loop.
        parameters = connection_parameters(await asyncio.to_thread(lambda: self.dsn))
        try:
            await (await AsyncConnection.connect(**parameters)).close()  # a pool does not say why it cannot connect
        except psycopg.OperationalError as error:
            raise unavailable(error) from error
        pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
            connection_class=AsyncConnection, **_pool_arguments(parameters, self._pool_size)
        )
        await pool.open()
        return pool

    async def close(self) -> None:
        """Close the connections, and let go of an embedded server. Tasks are not touched."""
        async with self._shared.async_lock:
            pool, self._shared.pool = self._shared.pool, None
            if pool is not None:
                await pool.close()
            self._let_go()

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
        inserted = await (self._enqueue_own(request) if connection is None else self._enqueue_joined(request, connection))
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
            async with _ajoined(connection):
                inserted = await arun(connection, operations.enqueue_many(self._sql, requests))
        committed = connection is None
        return [
            AsyncTaskHandle(self, one, request.type, committed=committed) for one, request in zip(inserted, requests, strict=True)
        ]

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
        page = _page(self._registry, status, type, queue, tags, created_after, limit, cursor)
        return await self._run(lambda: operations.list_tasks(self._sql, **page))

    async def depth(self, queue: str | None = None) -> int:
        """How many tasks are ready to run, in one queue or in all; counted exactly."""
        name = _queue_name(queue)
        return await self._run(lambda: operations.depth(self._sql, name))

    async def counts(self, queue: str | None = None) -> dict[str, dict[Status, int]]:
        """Unfinished and dead tasks by queue and status. Finished ones are not counted: the cost does not grow with history."""
        name = _queue_name(queue)
        return await self._run(lambda: operations.counts(self._sql, name))

    async def cancel(self, task: AsyncTaskHandle[Any] | uuid.UUID | str, reason: str | None = None) -> bool:
        """Cancel a waiting task at once, or ask a running one to stop. False: it has ended. Raises TaskNotFound."""
        task_id, because = _id(task), _reason(reason)
        if isinstance(task, AsyncTaskHandle):
            queue = task.queue_name
        else:
            queue = _found(await self._run(lambda: operations.get(self._sql, task_id)), task_id).queue
        return await self._perform(lambda repeated: operations.cancel(self._sql, queue, task_id, because, repeated=repeated))

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
        wanted, because = _unfinished(self._registry, status, type, queue, tags), _reason(reason)
        return await self._run(lambda: operations.cancel_all(self._sql, wanted, because))

    async def run_now(self, task: Task[R]) -> R:
        """Run a task here and now, without the database: for scripts and tests. Its exception comes out as it is."""
        from pgqueue.eager import arun_eagerly

        result: R = await arun_eagerly(self, task)
        return result

    async def _enqueue_own(self, request: Request) -> Inserted:
        try:
            return await self._perform(
                lambda repeated: operations.enqueue(self._sql, request, repeated=repeated),
                atomic=lambda repeated: operations.is_atomic(request, repeated=repeated),
            )
        except AlreadyEnqueued:
            return Inserted(request.id, request.queue, created=True)

    async def _enqueue_many_own(self, requests: Sequence[Request]) -> builtins.list[Inserted]:
        try:
            return await self._perform(
                lambda repeated: operations.enqueue_many(self._sql, requests, repeated=repeated),
                atomic=lambda repeated: True,
                repeatable=operations.is_repeatable(requests),
            )
        except AlreadyEnqueued:
            return [Inserted(request.id, request.queue, created=True) for request in requests]

    async def _enqueue_joined(self, request: Request, connection: Any) -> Inserted:
        async with _ajoined(connection):
            return await arun(connection, operations.enqueue(self._sql, request))

    async def _perform(
        self,
        operation: Callable[[bool], Operation[RV]],
        *,
        atomic: Callable[[bool], bool] = lambda repeated: False,
        repeatable: bool = True,
    ) -> RV:
        """Drive an operation over a connection of the pool, and again over another one if that is lost.

        `operation` and `atomic` (does it need a transaction?) are asked anew each time, with whether an attempt may have
        committed before. Not `repeatable`: only what is known to have been rolled back is done again.
        """
        patience, repeated = Patience(), False
        while True:
            try:
                async with self._connection() as connection:
                    if not atomic(repeated):
                        return await arun(connection, operation(repeated))
                    async with connection.transaction():
                        return await arun(connection, operation(repeated))
            except (psycopg.Error, DatabaseUnavailable) as error:
                repeated = _is_repeated(error, repeated, repeatable)
                pause = patience.pause_after(error)
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        pool = await self._opened()
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(pool.connection())
            except PoolTimeout as error:
                raise _exhausted(self._pool_size) from error
            yield connection

    async def _run(self, operation: Callable[[], Operation[RV]]) -> RV:
        return await self._perform(lambda repeated: operation())


@contextmanager
def _joined(connection: Any) -> Iterator[None]:
    """The caller's transaction; an autocommit connection outside of one gets one for the length of the call."""
    if isinstance(connection, psycopg.AsyncConnection):
        raise ConfigurationError(
            "this is the blocking Queue and the connection is an async one: use AsyncQueue, or a psycopg.Connection"
        )
    if not isinstance(connection, psycopg.Connection):
        raise ConfigurationError(
            f"connection takes a psycopg.Connection, not {type(connection).__module__}.{type(connection).__name__}"
        )
    if connection.autocommit and connection.info.transaction_status == pq.TransactionStatus.IDLE:
        with connection.transaction():
            yield
    else:
        yield


@asynccontextmanager
async def _ajoined(connection: Any) -> AsyncIterator[None]:
    """The caller's transaction; an autocommit connection outside of one gets one for the length of the call."""
    if isinstance(connection, psycopg.Connection):
        raise ConfigurationError(
            "this is AsyncQueue and the connection is a blocking one: use Queue, or a psycopg.AsyncConnection"
        )
    if not isinstance(connection, psycopg.AsyncConnection):
        raise ConfigurationError(
            f"connection takes a psycopg.AsyncConnection, not {type(connection).__module__}.{type(connection).__name__}"
        )
    if connection.autocommit and connection.info.transaction_status == pq.TransactionStatus.IDLE:
        async with connection.transaction():
            yield
    else:
        yield


def _pool_arguments(parameters: dict[str, Any], size: int) -> dict[str, Any]:
    kwargs = dict(parameters)
    return {
        "conninfo": kwargs.pop("conninfo"),
        "kwargs": kwargs,
        "min_size": min(1, size - 1),
        "max_size": size,
        "timeout": POOL_TIMEOUT_SECONDS,
        "open": False,
        "name": "pgqueue",
    }


def _exhausted(pool_size: int) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"no connection within {POOL_TIMEOUT_SECONDS:g} s: PostgreSQL does not answer, or all {pool_size} connections of this "
        "client are busy (pool_size=)"
    )


def _is_repeated(error: BaseException, repeated: bool, repeatable: bool) -> bool:
    """Whether an attempt may have committed. Raises what leaves that open where it must not be repeated."""
    if is_rolled_back(error):
        return repeated
    if not repeatable and is_lost(error):
        raise unavailable(error) from error
    return True


def _id(task: Any) -> uuid.UUID:
    value = task.id if isinstance(task, TaskHandle | AsyncTaskHandle | TaskRecord) else task
    try:
        return value if isinstance(value, uuid.UUID) else uuid.UUID(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{value!r:.200} is no task id: it takes a UUID or a handle") from error


def _found(record: TaskRecord | None, task_id: uuid.UUID) -> TaskRecord:
    if record is None:
        raise TaskNotFound(f"task {task_id} is not stored")
    return record


def _statuses(status: Status | str | Iterable[Status | str] | None) -> tuple[Status, ...] | None:
    if status is None:
        return None
    try:
        return tuple(Status(one) for one in ([status] if isinstance(status, str) else status))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{error}; a status is one of {', '.join(Status)}") from error


def _queue_name(queue: str | None) -> str | None:
    return None if queue is None else check_name(queue, "queue")


def _reason(reason: str | None) -> str | None:
    return None if reason is None else check_text(reason, "reason", limit=REASON_MAX)


def _canonical(registry: Registry, type: str | None) -> str | None:
    if type is None:
        return None
    known = registry.find(type)
    return check_name(type, "type") if known is None else known.name


def _filter(registry: Registry, status: Any, type: str | None, queue: str | None, tags: Sequence[str] | None) -> Filter:
    return Filter(_statuses(status), _queue_name(queue), _canonical(registry, type), None if tags is None else check_tags(tags))


def _unfinished(registry: Registry, status: Any, type: str | None, queue: str | None, tags: Sequence[str] | None) -> Filter:
    wanted = tuple(sorted(UNFINISHED)) if status is None else _statuses(status) or ()
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
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_MAX:
        raise ConfigurationError(f"limit takes 1 to {PAGE_MAX}, not {limit!r}")
    return {
        "wanted": _filter(registry, status, type, queue, tags),
        "created_after": None if created_after is None else check_instant(created_after, "created_after"),
        "limit": limit,
        "before": None if cursor is None else _id(cursor),
    }
