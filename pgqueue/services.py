"""What a runner does for its attempts (context.Services): its clients, its resources, and the transaction blocks."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from pgqueue.client import AsyncQueue, Queue
from pgqueue.context import Claimed, Context
from pgqueue.errors import ConfigurationError
from pgqueue.journal import Journal, TaskLog
from pgqueue.registry import Registry
from pgqueue.settings import Settings
from pgqueue.transactions import Transaction

CONNECTIONS_MAX = 100
CONNECTIONS_SPARE = 2
"""For what tasks look up while their transaction is open: with none to spare, all slots could wait for each other."""


class RunnerServices:
    """Async tasks get the async client and its connections, sync ones the blocking client; each opens when first used."""

    def __init__(
        self,
        dsn: str,
        runner_id: uuid.UUID,
        *,
        concurrency: int,
        settings: Settings,
        schema: str,
        registry: Registry,
        journal: Journal,
        on_owning: Callable[[str], None] = lambda type_name: None,
    ) -> None:
        # A connection for every slot: each may have a transaction open, for as long as its task takes.
        size = min(concurrency, CONNECTIONS_MAX) + CONNECTIONS_SPARE
        self.runner_id = runner_id
        self._loop = asyncio.get_running_loop()
        self.resources: dict[str, Any] = {}
        self._registry = registry
        self._journal = journal
        self._on_owning = on_owning
        self._async_queue = AsyncQueue(dsn, schema=schema, pool_size=size, settings=settings, registry=registry)
        self._queue = Queue(dsn, schema=schema, pool_size=size, settings=settings, registry=registry)

    def transaction(self, context: Context, connection: Any) -> Transaction:
        if self._registry.get(context.type).batch_size is not None:
            raise ConfigurationError(
                f"context.transaction() completes one task, and {context.type} is a batch type, whose tasks share a call and a "
                "slot: use a connection of your own in run_many, and return what became of each task"
            )
        if self._is_async(context):
            return Transaction(context, None, self._async_queue, connection, own=self._own)
        return Transaction(context, self._queue, None, connection, own=self._own)

    async def _own(self, context: Context) -> bool:
        """Let the attempt own its row: a transaction of its own could not settle what a lane has locked."""
        claimed = context._claimed
        self._on_owning(claimed.type)
        return claimed.holding is None or await claimed.holding.lease(claimed)

    def queue_of(self, context: Context) -> AsyncQueue | Queue:
        # By where it is asked: an async hook of a sync task needs the async client, and the other way round.
        queue: AsyncQueue | Queue = self._async_queue if asyncio._get_running_loop() is self._loop else self._queue
        return queue if context.connection is None else queue.bound(context.connection)

    def open_log(self, claimed: Claimed) -> TaskLog:
        return self._journal.open(claimed)

    async def close(self) -> None:
        """Close the connections of both clients."""
        await self._async_queue.close()
        await asyncio.to_thread(self._queue.close)

    def _is_async(self, context: Context) -> bool:
        return self._registry.get(context.type).execution == "async"
