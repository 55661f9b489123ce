"""Calling hooks: what a program wants to be told of an attempt. Stands beside executor.py, between the slots and user code.

A hook runs in the slot of its attempt, after the outcome is known and before it is written down: where a process dies in between,
the task runs again, and the hook with it. What a hook raises is logged and counted, and one that outlasts its time is left
behind; neither changes the outcome.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from pgqueue.context import Context, Services
from pgqueue.definition import TaskType
from pgqueue.errors import PgQueueError
from pgqueue.outcomes import Outcome, Verdict
from pgqueue.registry import Registry, running_context
from pgqueue.task import Task, attach
from pgqueue.task_hooks import NO_HOOKS, Hook, TaskHooks, hooks_of
from pgqueue.threads import Threads

logger = logging.getLogger("pgqueue.hooks")
AT_ONCE_MAX = 10
"""Of the tasks of one call of a batch type, so many have their hooks called at a time."""


class Told(NamedTuple):
    """An attempt that has ended, for its hooks. `result` counts where it has succeeded."""

    task: Task[Any]
    outcome: Outcome
    result: Any


class Reactions:
    """Calls the hooks of every type that has any; made when the runner starts."""

    def __init__(self, hooks: Mapping[str, TaskHooks], *, concurrency: int, timeout: timedelta) -> None:
        self.hooks: Final = hooks
        """By type, and only of types that have any."""
        self._threads = Threads(concurrency * AT_ONCE_MAX)
        self._seconds = timeout.total_seconds()
        self._running: set[asyncio.Task[None]] = set()
        self.failed_count = 0
        """Hooks that raised, or did not end in time."""

    def of(self, type_name: str) -> TaskHooks:
        return self.hooks.get(type_name, NO_HOOKS)

    async def start(self, task: Task[Any]) -> None:
        """Before `run`. Raises CancelledError where the attempt is stopped meanwhile, and nothing else."""
        for hook in self.of(task.context.type).on_start:
            await self._call(hook, task, partial(hook.function, task), may_stop=True)

    async def end(self, told: Told) -> None:
        """After `run`, with what it came to. Never raises: who stops the runner waits for the hooks, each within its time."""
        await self._end(told, self.of(told.task.context.type))

    async def _end(self, told: Told, hooks: TaskHooks) -> None:
        for hook, arguments in due(hooks, told.outcome, told.task.context.error, told.result):
            function = partial(_with_queue, hook.function) if hook.kind == "on_error" else hook.function
            await self._call(hook, told.task, partial(function, told.task, *arguments), may_stop=False)

    async def start_many(self, tasks: Sequence[Task[Any]]) -> None:
        """`start` for every task of a call."""
        await _at_once([(task, partial(self.start, task)) for task in tasks])

    async def end_many(self, ended: Sequence[Told]) -> None:
        """`end` for every task of a call. Never raises."""
        ending = asyncio.create_task(_at_once([(told.task, partial(self.end, told)) for told in ended]))
        while not ending.done():
            try:
                await asyncio.wait([ending])
            except asyncio.CancelledError:  # the call is stopped: it has ended, and its hooks are waited for
                continue

    async def refused(self, task_type: TaskType[Any], context: Context, outcome: Outcome) -> Outcome:
        """The payload does not validate: the error handlers are told with a task that has its context and no fields."""
        task = bare(task_type.cls)
        attach(task, context)
        running_context.set(context)
        only_handlers = TaskHooks(on_error=self.of(task_type.name).on_error)
        await self._end(Told(task, outcome, None), only_handlers)
        return outcome

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.close()

    async def _call(self, hook: Hook, task: Task[Any], call: Callable[[], Any], *, may_stop: bool) -> None:
        context, ends_at = task.context, time.monotonic() + self._seconds
        services, context._services = context._services, _Aside(context._services)
        # In a task of its own: it can be left behind, and a GeneratorExit or SystemExit of its ends there.
        running = asyncio.create_task(self._run(hook, task, call), name=f"pgqueue {hook.kind}")
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        try:
            while not running.done() and (left := ends_at - time.monotonic()) > 0:
                try:
                    await asyncio.wait([running], timeout=left)
                except asyncio.CancelledError:
                    if may_stop:
                        running.cancel()
                        raise
        finally:
            context._services = services
        if not running.done():
            running.cancel()
            self._failed(hook, task, f"did not end within {self._seconds:g} s (hook_timeout), and is left behind")

    async def _run(self, hook: Hook, task: Task[Any], call: Callable[[], Any]) -> None:
        try:
            result = call() if hook.is_async else await self._threads.run(call)
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            stopped = isinstance(error, asyncio.CancelledError) and _is_cancelled()
            if not stopped:  # who cancelled it says so
                self._failed(hook, task, "raised", error)

    def _failed(self, hook: Hook, task: Task[Any], what: str, error: BaseException | None = None) -> None:
        self.failed_count += 1
        context = task.context
        logger.error(
            "%s %s of %s %s %s; the outcome stands", hook.kind, hook.name, context.type, context.task_id, what, exc_info=error
        )


class _Aside:
    """The services of an attempt while its hooks run: there is nothing to complete."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def __getattr__(self, name: str) -> Any:
        return getattr(self._services, name)

    def transaction(self, context: Context, connection: Any) -> Any:
        raise PgQueueError("context.transaction() completes a task, which is decided beside hooks: open it in run")


def due(hooks: TaskHooks, outcome: Outcome, error: BaseException | None, result: Any) -> list[tuple[Hook, tuple[Any, ...]]]:
    """The hooks to call for an outcome, in order, each with what follows the task among its arguments."""
    if outcome.verdict in (Verdict.SUCCEEDED, Verdict.SETTLED):
        return [(hook, (result,)) for hook in hooks.on_success]
    if outcome.failure is None:
        return []
    calls: list[tuple[Hook, tuple[Any, ...]]] = [(hook, (error,)) for hook in hooks.on_failure]
    if outcome.verdict is Verdict.RETRIED:
        calls += [(hook, (error, timedelta(seconds=outcome.delay_seconds))) for hook in hooks.on_retry]
    elif outcome.verdict is Verdict.DEAD:
        calls += [(hook, (error,)) for hook in hooks.on_dead]
    return calls + [(hook, (error,)) for hook in hooks.on_error]


def hooks_by_type(registry: Registry, names: Sequence[str]) -> dict[str, TaskHooks]:
    """What is to be called for each of these types; those without any are left out."""
    types = [registry.get(name) for name in names]
    found = {one.name: hooks_of(one.hooks, is_batch=one.batch_size is not None) for one in types}
    return {name: hooks for name, hooks in found.items() if hooks}


def bare(cls: type[Task[Any]]) -> Task[Any]:
    """An instance without fields, made past every validator."""
    task = cls.__new__(cls)
    for name, value in (("__pydantic_fields_set__", set()), ("__pydantic_extra__", None), ("__pydantic_private__", None)):
        object.__setattr__(task, name, value)
    return task


async def _at_once(calls: Sequence[tuple[Task[Any], Callable[[], Any]]]) -> None:
    """Run them all, a few at a time, each in the context of its own task."""
    gate = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(task: Task[Any], call: Callable[[], Any]) -> None:
        async with gate:
            running_context.set(task.context)
            await call()

    await asyncio.gather(*(one(task, call) for task, call in calls))


def _with_queue(function: Callable[..., Any], task: Task[Any], error: BaseException) -> Any:
    """Called where the function runs, so that the client is of the kind that fits there."""
    return function(task.context.queue, task, error)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
