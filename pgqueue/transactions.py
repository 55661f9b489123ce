"""`context.transaction()`: a task's own writes and its completion commit together, or not at all.

The fence is the last statement before COMMIT, never a lock held from the start: settle.sql, which finds the row only while this
attempt's claim stands on it. Nothing found raises LeaseLost and rolls everything back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from pgqueue import payload
from pgqueue.completer import claims_object, outcome_entry
from pgqueue.context import Context
from pgqueue.database import Operation, arun, run
from pgqueue.errors import ConfigurationError, LeaseLost, PgQueueError
from pgqueue.outcomes import Outcome, Verdict
from pgqueue.registry import Registry
from pgqueue.statements import Statements

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, Queue


class Transaction:
    """The block. Plain `with` uses the blocking queue's pool or connection, `async with` the async one's."""

    def __init__(
        self,
        context: Context,
        queue: Queue | None,
        async_queue: AsyncQueue | None,
        connection: Any,
        *,
        own: Callable[[Context], Coroutine[Any, Any, bool]] | None = None,
    ) -> None:
        self._context = context
        self._queue = queue
        self._async_queue = async_queue
        self._given = connection
        self._own = own
        """Makes the attempt own its row, on the runner's loop; None where it always does."""
        self._stack: ExitStack | None = None
        self._async_stack: AsyncExitStack | None = None

    def __enter__(self) -> Any:
        if self._queue is None:
            raise ConfigurationError("in an async task it is `async with self.context.transaction() as connection:`")
        self._check(self._given, psycopg.Connection)
        if self._context._claimed.holding is not None and self._own is not None:
            assert self._context.loop is not None
            self._owned(asyncio.run_coroutine_threadsafe(self._own(self._context), self._context.loop).result())
        with ExitStack() as stack:
            connection = self._given or stack.enter_context(self._queue._connection())
            stack.enter_context(connection.transaction())
            self._stack = stack.pop_all()
        self._begin(connection)
        return connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        connection, self._context.connection = self._context.connection, None
        stack, self._stack = self._stack, None
        assert stack is not None
        assert self._queue is not None
        if error is not None:
            return bool(stack.__exit__(kind, error, trace))
        with stack:
            run(
                connection,
                completion(self._queue._sql, self._queue.registry, self._context, limit=self._queue.settings.max_payload_bytes),
            )
        self._context.settled = True
        return False

    async def __aenter__(self) -> Any:
        if self._async_queue is None:
            raise ConfigurationError("in a sync task it is `with self.context.transaction() as connection:`")
        self._check(self._given, psycopg.AsyncConnection)
        if self._context._claimed.holding is not None and self._own is not None:
            self._owned(await self._own(self._context))
        async with AsyncExitStack() as stack:
            connection = self._given or await stack.enter_async_context(self._async_queue._connection())
            await stack.enter_async_context(connection.transaction())
            self._async_stack = stack.pop_all()
        self._begin(connection)
        return connection

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        connection, self._context.connection = self._context.connection, None
        stack, self._async_stack = self._async_stack, None
        assert stack is not None
        assert self._async_queue is not None
        queue = self._async_queue
        if error is not None:
            return bool(await stack.__aexit__(kind, error, trace))
        async with stack:
            await arun(connection, completion(queue._sql, queue.registry, self._context, limit=queue.settings.max_payload_bytes))
        self._context.settled = True
        return False

    def _owned(self, is_owned: bool) -> None:
        if not is_owned:
            raise lease_lost(self._context)

    def _begin(self, connection: Any) -> None:
        self._context.connection = connection
        self._context._result = None  # of a block before this one, which was rolled back

    def _check(self, connection: Any, kind: type[Any]) -> None:
        if self._context.connection is not None:
            raise PgQueueError("context.transaction() is already open: an attempt completes once")
        if self._context.settled:
            raise PgQueueError("context.transaction() has completed this task already: an attempt completes once")
        if connection is None:
            return
        if not isinstance(connection, kind):
            raise ConfigurationError(f"connection takes a psycopg.{kind.__name__}, not {type(connection).__name__}")
        if connection.info.transaction_status != pq.TransactionStatus.IDLE:
            raise ConfigurationError(
                "context.transaction(connection=...) takes a connection in no transaction: the block begins and commits one"
            )


def completion(sql: Statements, registry: Registry, context: Context, *, limit: int) -> Operation[None]:
    """Settle this attempt as succeeded, in the transaction that is open. Raises LeaseLost when its claim is gone."""
    claimed = context._claimed
    task_type = registry.get(claimed.type)
    if not task_type.history:
        settled = yield sql.discard(queue=claimed.queue, ids=[claimed.id], claim_ids=[claimed.claim_id])
    else:
        result = payload.encode_result(task_type, context.completion, limit=limit) if context.completion is not None else None
        settled = yield sql.settle(
            queue=claimed.queue,
            runner_id=context.runner_id,
            ids=[claimed.id],
            claims=claims_object([claimed]),
            outcomes="{" + outcome_entry(claimed.id, Outcome(Verdict.SUCCEEDED, result=result)) + "}",
        )
    if not settled:
        raise lease_lost(context)


def lease_lost(context: Context) -> LeaseLost:
    """The error of an attempt whose claim is gone."""
    claimed = context._claimed
    return LeaseLost(
        f"attempt {claimed.attempt} of {claimed.type} {claimed.id} no longer owns its task: its transaction was rolled back, "
        "and whoever has the task now decides"
    )
