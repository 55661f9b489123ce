"""Calls: how batch types run. A call of `run_many` takes several claimed tasks; each keeps an attempt and an outcome of its own.

Stands beside executor.py, between the slots and user code, and like it never touches a row. A task that has expired, or whose
payload does not decode, gets its outcome at once and does not join the call.
"""

from __future__ import annotations

import asyncio
import contextvars
import random as random_module
import time
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from pgqueue import payload
from pgqueue.board import Board
from pgqueue.definition import TaskType
from pgqueue.executor import Attempt, conclude, describe, succeed, time_limit, time_limited, undecodable
from pgqueue.layers import Layers
from pgqueue.outcomes import Failure, Outcome, Verdict
from pgqueue.reactions import Reactions, Told
from pgqueue.registry import Registry, running_context
from pgqueue.task import Task, attach
from pgqueue.task_hooks import NO_HOOKS, TaskHooks
from pgqueue.threads import Threads

Member = tuple[Attempt, Task[Any]]


class Call:
    """Several attempts that run as one: what the slots hold, to be able to stop it."""

    __slots__ = ("attempts", "batch_size", "rest", "slot", "started_at", "variables")

    def __init__(self, attempts: list[Attempt], batch_size: int, slot: asyncio.Task[None]) -> None:
        self.attempts = attempts
        """Those that are in it; after `Calls.begin`, those that have joined. None of them knows the slot: a cancellation of one
        must not interrupt the others."""
        self.batch_size = batch_size
        self.slot = slot
        self.started_at = 0.0
        self.variables: contextvars.Context
        self.rest: Coroutine[Any, Any, Any] | None = None
        """The call itself, which gives every attempt in it an outcome; None where nothing is left to run."""

    def interrupt(self) -> None:
        """Stop it, once for all of its attempts: a second cancellation would hit its cleaning up."""
        self.slot.cancel()


class Calls:
    """Runs the calls of batch types: async ones on the loop, sync ones in threads."""

    def __init__(
        self,
        registry: Registry,
        types: Sequence[str],
        *,
        threads: Threads,
        board: Board,
        undecodable_delay: timedelta,
        result_bytes_max: int,
        reactions: Reactions | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self._registry = registry
        self.sizes = {name: size for name in types if (size := registry.get(name).batch_size) is not None}
        """How many tasks one call takes at most, by batch type."""
        self._threads = threads
        self._reactions = reactions
        self._board = board
        self._undecodable_seconds = undecodable_delay.total_seconds()
        self._result_bytes_max = result_bytes_max
        self._random = random or random_module.Random()

    def begin(self, call: Call) -> None:
        """Look and decode, task by task; called inside `call.variables`. Never raises.

        Gives those an outcome that do not join, and sets `call.rest` if any do.
        """
        task_type = self._registry.get(call.attempts[0].claimed.type)
        joined = [(attempt, task) for attempt in call.attempts if (task := self._open(task_type, attempt)) is not None]
        hooks = NO_HOOKS if self._reactions is None else self._reactions.of(task_type.name)
        refused = self._refused(call.attempts) if hooks.on_error else []
        if not joined and not refused:
            return
        limits = [limit for attempt, _ in joined if (limit := time_limit(task_type, attempt.claimed)) is not None]
        limit = min(limits, default=None)
        self._bound(joined, limit)
        if hooks:
            call.rest = self._hooked(task_type, hooks, joined, refused, limit)
            return
        running_context.set(joined[0][0].context)
        call.rest = self._concluded(task_type, joined, limit)

    def _refused(self, attempts: Sequence[Attempt]) -> list[tuple[Attempt, Outcome]]:
        """Those whose payload does not validate stay in the call until the error handlers have been told."""
        refused = [(attempt, attempt.outcome) for attempt in attempts if attempt.outcome and attempt.outcome.failure]
        for attempt, _ in refused:
            attempt.outcome = None
        return refused

    def _bound(self, joined: Sequence[Member], limit: float | None) -> None:
        if limit is not None:
            deadline = time.monotonic() + limit
            for attempt, _ in joined:
                self._board.set_deadline(attempt.position, deadline)

    async def _hooked(
        self,
        task_type: TaskType[Any],
        hooks: TaskHooks,
        joined: Sequence[Member],
        refused: Sequence[tuple[Attempt, Outcome]],
        limit: float | None,
    ) -> None:
        """A call whose type has hooks or middleware. Never raises."""
        assert self._reactions is not None
        if joined:
            await self._wrapped(task_type, hooks, joined, limit)
        for attempt, outcome in refused:
            attempt.outcome = await self._reactions.refused(task_type, attempt.context, outcome)

    async def _wrapped(self, task_type: TaskType[Any], hooks: TaskHooks, joined: Sequence[Member], limit: float | None) -> None:
        assert self._reactions is not None
        running_context.set(joined[0][0].context)
        if hooks.on_start:
            self._unbound(joined)
            try:
                await self._reactions.start_many([task for _, task in joined])
            except asyncio.CancelledError as error:
                for attempt, task in joined:
                    attempt.outcome = self._failed(task_type, attempt, task, error)
                return
            self._bound(joined, limit)
        results = await self._concluded(task_type, joined, limit, hooks)
        self._unbound(joined)
        ended = [
            Told(task, attempt.outcome, result)
            for (attempt, task), result in zip(joined, results, strict=True)
            if attempt.outcome is not None
        ]
        await self._reactions.end_many(ended)

    def _unbound(self, joined: Sequence[Member]) -> None:
        """No deadline stands on the board while hooks run, which have a limit of their own."""
        for attempt, _ in joined:
            self._board.set_deadline(attempt.position, 0.0)

    def _open(self, task_type: TaskType[Any], attempt: Attempt) -> Task[Any] | None:
        """The task, with its attempt; None where it has ended before it was started."""
        claimed = attempt.claimed
        if claimed.is_expired:
            attempt.outcome = Outcome(Verdict.CANCELLED, reason="expired before it was started")
            return None
        attempt.keeps_history = task_type.history
        try:
            limit = time_limit(task_type, claimed)
            attempt.position = self._board.started(claimed, 0.0 if limit is None else time.monotonic() + limit)
            task = payload.decode(task_type, claimed.payload)
        except BaseException as error:  # validators are user code: they may raise anything
            attempt.outcome = undecodable(claimed, error, self._undecodable_seconds)
            attempt.context.error = error
            return None
        attach(task, attempt.context)
        return task

    async def _concluded(
        self, task_type: TaskType[Any], joined: Sequence[Member], limit: float | None, hooks: TaskHooks = NO_HOOKS
    ) -> Sequence[Any]:
        """Call, and say of each task what it came to. Returns the entries. Never raises."""
        try:
            returned = await self._run(task_type, joined, limit, hooks)
            entries: Sequence[Any] = payload.entries(task_type, returned, len(joined))
        except BaseException as error:
            # Described once: a traceback costs more than the rest of an outcome, and all tasks have the same.
            failure = describe(error)
            for attempt, task in joined:
                attempt.outcome = self._failed(task_type, attempt, task, error, failure)
            return [None] * len(joined)
        for (attempt, task), entry in zip(joined, entries, strict=True):
            attempt.outcome = self._ended(task_type, attempt, task, entry)
        return entries

    def _ended(self, task_type: TaskType[Any], attempt: Attempt, task: Task[Any], entry: Any) -> Outcome:
        if isinstance(entry, BaseException):
            return self._failed(task_type, attempt, task, entry)
        try:
            return succeed(task_type, task, attempt.context, entry, limit=self._result_bytes_max, random=self._random)
        except BaseException as error:  # a serializer of user code, which must not hurt the others
            return self._failed(task_type, attempt, task, error)

    def _failed(
        self, task_type: TaskType[Any], attempt: Attempt, task: Task[Any], error: BaseException, failure: Failure | None = None
    ) -> Outcome:
        running_context.set(attempt.context)
        stands_for = attempt.explain(error)
        return conclude(task_type, task, attempt.context, stands_for, random=self._random, failure=failure)

    async def _run(self, task_type: TaskType[Any], joined: Sequence[Member], limit: float | None, hooks: TaskHooks) -> Any:
        tasks = [task for _, task in joined]
        run_many = partial(task_type.cls.run_many, tasks)
        is_async = task_type.execution == "async"
        if hooks.middleware:
            layers = Layers(hooks.middleware, tasks, run_many, is_async=is_async, in_thread=self._threads.run)
            async with time_limited(limit, on_expiry=partial(_tell, joined)):
                return await layers.run()
        if is_async:
            async with time_limited(limit):
                return await run_many()
        async with time_limited(limit, on_expiry=partial(_tell, joined)):
            return await self._threads.run(run_many)


def _tell(joined: Sequence[Member]) -> None:
    """The time is up: a thread cannot be interrupted, so it is told through each of its tasks."""
    for attempt, _ in joined:
        attempt.context.cancellation().set()
