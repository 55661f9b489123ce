"""`queue.run_now(task)`: one attempt here and now, without the database, through the same payload and result checks."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pgqueue import payload
from pgqueue.context import Claimed, Context
from pgqueue.errors import ConfigurationError, PayloadError, PgQueueError
from pgqueue.journal import TaskLog
from pgqueue.layers import Layers
from pgqueue.preparation import new_id
from pgqueue.registry import running_context, type_of
from pgqueue.task import Task, attach
from pgqueue.task_hooks import hooks_of

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, Queue


logger = logging.getLogger("pgqueue.task")


class _EagerServices:
    """An attempt without a runner: there is no row, so there is no completion to commit."""

    runner_id = uuid.UUID(int=os.getpid())
    resources: Mapping[str, Any] = {}

    def __init__(self, own: Queue | AsyncQueue, *, is_async: bool) -> None:
        self._own = own
        self._is_async = is_async
        self._other: Queue | AsyncQueue | None = None

    def transaction(self, context: Context, connection: Any) -> Any:
        raise PgQueueError(
            "run_now runs without the database, so context.transaction() has no completion to commit: enqueue the task instead"
        )

    def queue_of(self, context: Context) -> Queue | AsyncQueue:
        """A client of the kind the task is: the caller's own, else a second one, opened when a task asks for it."""
        from pgqueue.client import AsyncQueue, Queue

        kind = AsyncQueue if self._is_async else Queue
        if isinstance(self._own, kind):
            return self._own
        if self._other is None:
            own = self._own
            self._other = kind(own.dsn, schema=own.schema, settings=own.settings, registry=own.registry)
        return self._other

    def open_log(self, claimed: Claimed) -> TaskLog:
        """Without a row to keep lines with, they go where the program logs."""

        def write(level: int, message: str, progress: float | None) -> None:
            done = "" if progress is None else f"{progress:.0%} "
            logger.log(level, "%s: %s%s", claimed.type, done, message)

        return TaskLog(write)

    async def aclose(self) -> None:
        """Close the second client, from a loop; under async middleware it may be the blocking one."""
        closing = None if self._other is None else self._other.close()
        if closing is not None:
            await closing

    def close(self) -> None:
        """Close the second client of a sync task."""
        if self._other is not None:
            self._other.close()


def run_eagerly(queue: Queue, task: Task[Any]) -> Any:
    """Run and return the result, as a runner and `handle.result()` would have given it. An async task gets a loop of its own."""
    twin, services = _prepare(queue, task)
    layers = _layers(twin)
    if layers.needs_loop:
        if asyncio._get_running_loop() is not None:
            raise ConfigurationError(
                f"{type(task).__name__}, or middleware around it, is async and a loop runs here already: use "
                "`await AsyncQueue.run_now(task)`"
            )
        result = asyncio.run(_run_async(twin, services, layers))
    else:
        result = _run_sync(twin, services, layers)
    return _checked(task, result, queue.settings.max_payload_bytes)


async def arun_eagerly(queue: AsyncQueue, task: Task[Any]) -> Any:
    """Run and return the result; an async task runs on this loop, a sync one in a thread."""
    twin, services = _prepare(queue, task)
    layers = _layers(twin)
    if layers.needs_loop:
        result = await _run_async(twin, services, layers)
    else:
        result = await asyncio.to_thread(_run_sync, twin, services, layers)
    return _checked(task, result, queue.settings.max_payload_bytes)


async def _run_async(twin: Task[Any], services: _EagerServices, layers: Layers) -> Any:
    token = running_context.set(twin.context)
    try:
        return await layers.run()
    finally:
        running_context.reset(token)
        await services.aclose()


def _run_sync(twin: Task[Any], services: _EagerServices, layers: Layers) -> Any:
    token = running_context.set(twin.context)
    try:
        return layers.run_sync()
    finally:
        running_context.reset(token)
        services.close()


def _layers(twin: Task[Any]) -> Layers:
    """What does the work, `run`, or `run_many` with this task alone, and the middleware around it."""
    task_type = type_of(twin)
    is_batch = task_type.batch_size is not None
    subject: Any = [twin] if is_batch else twin
    work = partial(type(twin).run_many, subject) if is_batch else twin.run
    middleware = hooks_of(task_type.hooks, is_batch=is_batch).middleware
    return Layers(middleware, subject, work, is_async=_is_async(twin), in_thread=asyncio.to_thread)


def _is_async(task: Task[Any]) -> bool:
    return inspect.iscoroutinefunction(task.run if type_of(task).batch_size is None else task.run_many)


def _prepare(queue: Queue | AsyncQueue, task: Task[Any]) -> tuple[Task[Any], _EagerServices]:
    """A twin of the task, as the runner would decode it, with a context."""
    if not isinstance(task, Task):
        raise ConfigurationError(f"run_now takes an instance of a @task class, not {task!r:.200}")
    task_type = type_of(task)
    text = payload.encode(task_type, task, limit=queue.settings.max_payload_bytes)
    twin = payload.decode(task_type, text)
    now = datetime.now(UTC)
    id = str(new_id())
    claimed = Claimed(task_type.queue, id, id, task_type.name, 1, task_type.priority, now, now, text, None, False)
    services = _EagerServices(queue, is_async=_is_async(twin))
    attach(twin, Context(claimed, services))
    return twin, services


def _checked(task: Task[Any], result: Any, limit: int) -> Any:
    task_type = type_of(task)
    if task_type.batch_size is not None:
        (result,) = payload.entries(task_type, result, 1)
        if isinstance(result, BaseException):
            raise result
    if inspect.isawaitable(result):
        getattr(result, "close", lambda: None)()
        raise PayloadError(f"run of {task_type.name} returned an awaitable: write `async def run`")
    return payload.decode_result(task_type, payload.encode_result(task_type, result, limit=limit))
