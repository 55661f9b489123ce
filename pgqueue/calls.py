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
from pgqueue.outcomes import Failure, Outcome, Verdict
from pgqueue.registry import Registry, running_context
from pgqueue.task import Task, attach
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
        self.rest: Coroutine[Any, Any, None] | None = None
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
        random: random_module.Random | None = None,
    ) -> None:
        self._registry = registry
        self.sizes = {name: size for name in types if (size := registry.get(name).batch_size) is not None}
        """How many tasks one call takes at most, by batch type."""
        self._threads = threads
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
        if not joined:
            return
        limits = [limit for attempt, _ in joined if (limit := time_limit(task_type, attempt.claimed)) is not None]
        limit = min(limits, default=None)
        if limit is not None:
            deadline = time.monotonic() + limit
            for attempt, _ in joined:
                self._board.set_deadline(attempt.position, deadline)
        running_context.set(joined[0][0].context)
        call.rest = self._concluded(task_type, joined, limit)

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
            return None
        attach(task, attempt.context)
        return task

    async def _concluded(self, task_type: TaskType[Any], joined: Sequence[Member], limit: float | None) -> None:
        """Call, and say of each task what it came to. Never raises."""
        try:
            returned = await self._run(task_type, joined, limit)
            entries = payload.entries(task_type, returned, len(joined))
        except BaseException as error:
            # Described once: a traceback costs more than the rest of an outcome, and all tasks have the same.
            failure = describe(error)
            for attempt, task in joined:
                attempt.outcome = self._failed(task_type, attempt, task, error, failure)
            return
        for (attempt, task), entry in zip(joined, entries, strict=True):
            attempt.outcome = self._ended(task_type, attempt, task, entry)

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

    async def _run(self, task_type: TaskType[Any], joined: Sequence[Member], limit: float | None) -> Any:
        run_many = partial(task_type.cls.run_many, [task for _, task in joined])
        if task_type.execution == "async":
            async with time_limited(limit):
                return await run_many()
        async with time_limited(limit, on_expiry=partial(_tell, joined)):
            return await self._threads.run(run_many)


def _tell(joined: Sequence[Member]) -> None:
    """The time is up: a thread cannot be interrupted, so it is told through each of its tasks."""
    for attempt, _ in joined:
        attempt.context.cancellation().set()
