"""`queue.run_now(task)`: one attempt here and now, without the database, through the same payload and result checks."""

from __future__ import annotations

import asyncio
import inspect
import os
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from pgqueue import payload
from pgqueue.context import Claimed, Context
from pgqueue.errors import PgQueueError
from pgqueue.preparation import new_id
from pgqueue.registry import running_context, type_of
from pgqueue.task import Task, attach


class _EagerServices:
    """An attempt without a runner: there is no row, so there is no completion to commit."""

    runner_id = uuid.UUID(int=os.getpid())
    resources: Mapping[str, Any] = {}

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def transaction(self, context: Context, connection: Any) -> Any:
        raise PgQueueError("run_now runs without the database, so context.transaction() has no completion to commit: enqueue the task instead")

    def queue_of(self, context: Context) -> Any:
        return self._queue


def run_eagerly(queue: Any, task: Task[Any]) -> Any:
    """Run and return the result, as a runner and `handle.result()` would have given it. An async task gets a loop of its own."""
    twin = _prepare(queue, task)
    token = running_context.set(twin.context)
    try:
        result = twin.run()
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
    finally:
        running_context.reset(token)
    return _checked(task, result, queue.settings.max_payload_bytes)


async def arun_eagerly(queue: Any, task: Task[Any]) -> Any:
    """Run and return the result; an async task runs on this loop, a sync one in a thread."""
    twin = _prepare(queue, task)
    token = running_context.set(twin.context)
    try:
        result = await twin.run() if inspect.iscoroutinefunction(twin.run) else await asyncio.to_thread(twin.run)
    finally:
        running_context.reset(token)
    return _checked(task, result, queue.settings.max_payload_bytes)


def _prepare(queue: Any, task: Task[Any]) -> Task[Any]:
    """A twin of the task, as the runner would decode it, with a context."""
    task_type = type_of(task)
    text = payload.encode(task_type, task, limit=queue.settings.max_payload_bytes)
    twin = payload.decode(task_type, text)
    now = datetime.now(timezone.utc)
    id = str(new_id())
    claimed = Claimed(task_type.queue, id, id, task_type.name, 1, task_type.priority, now, now, text, None, False)
    attach(twin, Context(claimed, _EagerServices(queue)))
    return twin


def _checked(task: Task[Any], result: Any, limit: int) -> Any:
    task_type = type_of(task)
    return payload.decode_result(task_type, payload.encode_result(task_type, result, limit=limit))
