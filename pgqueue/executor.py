"""The executor: one attempt of one task, from a claimed row to an outcome. It never touches the row: the completer does.

Whatever user code raises ends here: no exception of a task, `SystemExit` included, may reach the runner.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import logging
import random as random_module
import time
import traceback
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pgqueue import payload
from pgqueue.board import OFF_BOARD, Board
from pgqueue.context import Claimed, Context, Services
from pgqueue.definition import TaskType
from pgqueue.errors import PayloadError
from pgqueue.layers import Layers
from pgqueue.outcomes import (
    CANCELLED,
    RETURNED,
    SETTLED,
    SUCCEEDED,
    Cancel,
    Failure,
    Ignore,
    Outcome,
    OutcomeRequest,
    RetryIn,
    Snooze,
    Verdict,
    clean,
)
from pgqueue.processes import Processes
from pgqueue.reactions import Reactions, Told
from pgqueue.registry import Registry, running_context
from pgqueue.retry import Retry
from pgqueue.task import Task, attach
from pgqueue.task_hooks import NO_HOOKS, TaskHooks
from pgqueue.threads import Threads

logger = logging.getLogger("pgqueue.executor")
ERROR_CHARACTERS_MAX = 10_000
TRACEBACK_CHARACTERS_MAX = 60_000
UNDECODABLE_MARK = json.dumps({"undecodable": True})
FLOOR_AFTER_TRIES = 10
"""From so many tries on, a retry "at once" waits for the floor: a task that always fails must not spin."""
FLOOR_SECONDS = 1.0
DELAY_SECONDS_MAX = 100 * 365 * 86_400.0
"""The longest pause before the next attempt; an interval much longer is none that PostgreSQL can add to an instant."""
FRAMES_MAX = 50
_OWN_DIRECTORY = f"{Path(__file__).parent}/"


class Attempt:
    """A running attempt: what the worker holds, to be able to stop it."""

    __slots__ = (
        "_cancel_asked", "_stopped_for", "claimed", "context", "keeps_history", "outcome", "position", "rest", "slot",
        "started_at", "variables",
    )  # fmt: skip

    def __init__(self, claimed: Claimed, services: Services) -> None:
        self.claimed = claimed
        self.context = Context(claimed, services)
        self.started_at = 0.0
        self.keeps_history = True
        self.slot: asyncio.Task[None] | None = None
        """The asyncio.Task it runs in; cancelling that interrupts it."""
        self.variables: contextvars.Context
        """Every step is made in here, so that no context variable leaks from one task to the next."""
        self.outcome: Outcome | None = None
        """What it came to, where it ended without waiting for anything."""
        self.rest: Coroutine[Any, Any, Outcome] | None = None
        """What is left of it, where it did not."""
        self.position = OFF_BOARD
        """Where it stands on the board while it runs."""
        self._stopped_for: Outcome | None = None
        self._cancel_asked = False

    def cancel(self, *, interrupt: bool) -> None:
        """Somebody asked to cancel the task. `interrupt` False: it runs in a thread, which can only be told.

        The request is seen anew with every look at the database: a second interruption would hit the task's cleaning up.
        """
        if self._cancel_asked:
            return
        self._cancel_asked = True
        self.context.cancellation().set()
        if interrupt:
            self._stop(CANCELLED)

    def interrupt(self) -> None:
        """The runner is leaving: the task goes back as it came."""
        self.context.cancellation().set()
        self._stop(RETURNED)

    def _stop(self, outcome: Outcome) -> None:
        self._stopped_for = self._stopped_for or outcome
        if self.slot is not None:
            self.slot.cancel()

    @property
    def stopped_for(self) -> Outcome | None:
        """What a cancellation that we asked for comes to; None: user code raised CancelledError by itself."""
        return self._stopped_for

    @property
    def gave_way(self) -> bool:
        """Whether the task saw that it is to be cancelled; a timeout sets the same flag, and does not count."""
        return self._cancel_asked and self.context.was_told

    def explain(self, error: BaseException) -> BaseException | Outcome:
        """What a stopped attempt raises, CancelledError or what cleaning up made of it, stands for what we asked."""
        if isinstance(error, OutcomeRequest):
            return error
        if self.gave_way:
            return self.stopped_for or CANCELLED
        return self.stopped_for or error


class Executor:
    """Runs attempts: async ones on the loop, sync ones in threads, others in processes that can be killed."""

    def __init__(
        self,
        registry: Registry,
        *,
        threads: Threads,
        processes: Processes,
        board: Board,
        undecodable_delay: timedelta,
        result_bytes_max: int,
        reactions: Reactions | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self._registry = registry
        self._reactions = reactions
        self._hooks: Mapping[str, TaskHooks] = {} if reactions is None else reactions.hooks
        self._wrapped = {name for name, hooks in self._hooks.items() if hooks.wraps}
        """Types that are never over at once: what only failures call for costs a success nothing."""
        self._threads = threads
        self._processes = processes
        self._board = board
        self._undecodable_seconds = undecodable_delay.total_seconds()
        self._result_bytes_max = result_bytes_max
        self._random = random or random_module.Random()

    def execution_of(self, claimed: Claimed) -> str:
        """How this row's type runs: "async", "thread" or "process"."""
        return self._registry.get(claimed.type).execution

    def begin(self, attempt: Attempt) -> None:
        """Look, decode, start to run; called inside `attempt.variables`. Never raises.

        Sets `attempt.outcome` if it has ended by then; else `attempt.rest`, to be awaited in the same context.
        """
        claimed, context = attempt.claimed, attempt.context
        if claimed.is_expired:
            attempt.outcome = Outcome(Verdict.CANCELLED, reason="expired before it was started")
            return
        try:
            task_type = self._registry.get(claimed.type)
            attempt.keeps_history = task_type.history
            limit = time_limit(task_type, claimed)
            # A process of its own is killed by this one; the supervisor minds what could hold up this loop.
            deadline = 0.0 if limit is None or task_type.execution == "process" else time.monotonic() + limit
            attempt.position = self._board.started(claimed, deadline)
            task = payload.decode(task_type, claimed.payload)
        except BaseException as error:  # validators are user code: they may raise anything
            attempt.outcome = undecodable(claimed, error, self._undecodable_seconds)
            if claimed.type in self._hooks:
                context.error = error
                attempt.rest = self._refused(attempt, attempt.outcome)
            return
        attach(task, context)
        running_context.set(context)
        try:
            if claimed.type in self._wrapped:  # a look into an empty set, for programs without hooks
                attempt.rest = self._hooked(attempt, task_type, task, limit)
                return
            if limit is not None or task_type.execution != "async":
                attempt.rest = self._concluded(attempt, task_type, task, self._run(task_type, task, context, limit))
                return
            coroutine: Any = task.run()
            if type(coroutine) is not types.CoroutineType:
                attempt.rest = self._concluded(attempt, task_type, task, coroutine)
                return
            waited_for = coroutine.send(None)
        except StopIteration as stop:
            if stop.value is None and task_type.result_adapter is None and not (context.settled or context.was_told):
                attempt.outcome = SUCCEEDED  # what most tasks come to, without the detour
                return
            attempt.outcome = succeed(task_type, task, context, stop.value, limit=self._result_bytes_max, random=self._random)
        except BaseException as error:
            attempt.outcome = conclude(task_type, task, context, error, random=self._random)
        else:
            attempt.rest = self._concluded(attempt, task_type, task, _Resumed(coroutine, waited_for))
            return
        if attempt.outcome.failure is not None and claimed.type in self._hooks:
            attempt.rest = self._told(attempt, task_type, task, attempt.outcome, None)

    async def _concluded(self, attempt: Attempt, task_type: TaskType[Any], task: Task[Any], run: Awaitable[Any]) -> Outcome:
        """Wait for `run` and say what it came to. Never raises."""
        context = attempt.context
        result: Any = None
        try:
            result = await run
        except BaseException as error:
            outcome = conclude(task_type, task, context, attempt.explain(error), random=self._random)
        else:
            if isinstance(result, Outcome) and task_type.execution == "process":
                outcome, result = result, context.completion
            else:
                outcome = succeed(task_type, task, context, result, limit=self._result_bytes_max, random=self._random)
        if task_type.name in self._hooks:
            return await self._told(attempt, task_type, task, outcome, result)
        return outcome

    async def _told(self, attempt: Attempt, task_type: TaskType[Any], task: Task[Any], outcome: Outcome, result: Any) -> Outcome:
        """Tell the hooks what it came to. Never raises."""
        assert self._reactions is not None
        self._board.set_deadline(attempt.position, 0.0)  # they have a limit of their own
        if outcome.verdict is Verdict.SETTLED:
            result = attempt.context.completion
        await self._reactions.end(Told(task, outcome, result))
        return outcome

    async def _hooked(self, attempt: Attempt, task_type: TaskType[Any], task: Task[Any], limit: float | None) -> Outcome:
        """An attempt whose type has hooks or middleware: they run in its slot, around it. Never raises."""
        assert self._reactions is not None
        if self._hooks[task_type.name].on_start:
            # The timeout bounds `run`; no deadline stands on the board while hooks run.
            self._board.set_deadline(attempt.position, 0.0)
            try:
                await self._reactions.start(task)
            except asyncio.CancelledError as error:
                return conclude(task_type, task, attempt.context, attempt.explain(error), random=self._random)
            if limit is not None and task_type.execution != "process":
                self._board.set_deadline(attempt.position, time.monotonic() + limit)
        return await self._concluded(attempt, task_type, task, self._run(task_type, task, attempt.context, limit))

    async def _refused(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """Tell the error handlers of a payload that does not validate."""
        assert self._reactions is not None
        task_type = self._registry.get(attempt.claimed.type)
        return await self._reactions.refused(task_type, attempt.context, outcome)

    def escaped(self, attempt: Attempt, error: BaseException) -> Outcome:
        """What came out beside `execute`: a GeneratorExit that user code met in a future closes every coroutine around it."""
        if attempt.context.settled:
            return SETTLED
        failure = describe(error)
        return attempt.stopped_for or Outcome(Verdict.DEAD, reason=f"{failure.error_type}: {failure.error}", failure=failure)

    async def _run(self, task_type: TaskType[Any], task: Task[Any], context: Context, limit: float | None) -> Any:
        hooks = self._hooks.get(task_type.name, NO_HOOKS)
        if task_type.execution == "process":
            # The whole attempt happens over there, the retry decision too; it is killed when it must stop.
            return await self._processes.run(task_type, context, time_limited(limit), reports=bool(hooks))
        is_async = task_type.execution == "async"
        if hooks.middleware:
            context.loop = asyncio.get_running_loop()
            layers = Layers(hooks.middleware, task, task.run, is_async=is_async, in_thread=self._threads.run)
            async with time_limited(limit, on_expiry=context.cancellation().set):
                return await layers.run()
        if is_async:
            async with time_limited(limit):
                return await task.run()
        context.loop = asyncio.get_running_loop()
        async with time_limited(limit, on_expiry=context.cancellation().set):
            return await self._threads.run(task.run)


class _Resumed:
    """Awaits a coroutine that has made its first step already, and has yielded what it waits for."""

    __slots__ = ("_coroutine", "_waited_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waited_for: Any) -> None:
        self._coroutine = coroutine
        self._waited_for = waited_for

    def __await__(self) -> Generator[Any, Any, Any]:
        send, throw, waited_for = self._coroutine.send, self._coroutine.throw, self._waited_for
        step: Callable[[Any], Any]
        argument: Any
        try:
            while True:
                try:
                    argument = yield waited_for
                    step = send
                except BaseException as error:
                    argument, step = error, throw
                waited_for = step(argument)
        except StopIteration as stop:
            return stop.value


class time_limited:  # reads as a keyword
    """Ends what runs inside with TimeoutError when the limit is up, telling a thread that cannot be interrupted."""

    def __init__(self, seconds: float | None, on_expiry: Callable[[], None] | None = None) -> None:
        self._seconds = seconds
        self._on_expiry = on_expiry
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as expired:
            if not self._timeout.expired():
                raise
            if self._on_expiry is not None:
                self._on_expiry()
            raise TimeoutError(f"it did not end within its timeout of {self._seconds:g} s") from expired


def time_limit(task_type: TaskType[Any], claimed: Claimed) -> float | None:
    """Seconds this attempt may take: the enqueue's own timeout, else the type's."""
    if claimed.options is not None:
        timeout = json.loads(claimed.options).get("timeout")
        if isinstance(timeout, int | float) and timeout > 0:
            return float(timeout)
    return None if task_type.timeout is None else task_type.timeout.total_seconds()


def undecodable(claimed: Claimed, error: BaseException, delay_seconds: float) -> Outcome:
    """A payload that does not validate goes back once, for a newer runner that may know it, and is dead the second time."""
    failure = describe(error)
    if '"undecodable"' in (claimed.options or ""):
        return Outcome(Verdict.DEAD, reason=failure.error, failure=failure)
    return Outcome(Verdict.SNOOZED, delay_seconds=delay_seconds, failure=failure, mark=UNDECODABLE_MARK)


def succeed(
    task_type: TaskType[Any], task: Task[Any], context: Context, result: Any, *, limit: int, random: random_module.Random
) -> Outcome:
    """The outcome of a `run` that returned; a result that cannot be stored is a failure."""
    if context.settled:
        return SETTLED
    if context.was_told:
        return CANCELLED
    if result is None and task_type.result_adapter is None:
        return SUCCEEDED
    if inspect.isawaitable(result):
        getattr(result, "close", lambda: None)()
        result = PayloadError(f"run of {task_type.name} returned an awaitable: write `async def run`")
        return conclude(task_type, task, context, result, random=random)
    try:
        return Outcome(Verdict.SUCCEEDED, result=payload.encode_result(task_type, result, limit=limit))
    except Exception as error:  # whatever a custom serializer of user code may raise
        return conclude(task_type, task, context, error, random=random)


def conclude(
    task_type: TaskType[Any],
    task: Task[Any],
    context: Context,
    error: BaseException | Outcome,
    *,
    random: random_module.Random,
    failure: Failure | None = None,
) -> Outcome:
    """The outcome of a `run` that raised: what it asked for, or a failure that is retried or is not.

    failure: what `describe` says of the error, where it was asked already.
    """
    if context.settled:
        if not isinstance(error, Outcome):
            logger.error("%s %s raised after its transaction had completed it", task_type.name, context.task_id, exc_info=error)
        return SETTLED
    if isinstance(error, Outcome):
        return error
    if isinstance(error, Snooze):
        return Outcome(Verdict.SNOOZED, delay_seconds=_pause(error.delay))
    if isinstance(error, Ignore):
        return Outcome(Verdict.IGNORED, reason=clean(error.reason) or None)
    if isinstance(error, Cancel):
        return Outcome(Verdict.CANCELLED, reason=clean(error.reason) or None)
    failure = failure or describe(error)
    context.error = error
    if isinstance(error, RetryIn):
        return Outcome(Verdict.RETRIED, delay_seconds=_pause(error.delay, tries=context.attempt), failure=failure)
    delay, note = _decide(task_type, task, context, error, random)
    if delay is None:
        reason = f"{failure.error_type}: {failure.error}" if failure.error else failure.error_type
        return Outcome(Verdict.DEAD, reason=clean(f"{reason}{note}"), failure=failure)
    return Outcome(Verdict.RETRIED, delay_seconds=delay, failure=failure)


def _decide(
    task_type: TaskType[Any], task: Task[Any], context: Context, error: BaseException, random: random_module.Random
) -> tuple[float | None, str]:
    """Seconds until the next try, or None to give up, and a note where the decision itself went wrong."""
    try:
        override = _retry_override(context)
        if override is None and task_type.asks_next_try:
            delay: Any = task.next_try()
        else:
            policy = override or task_type.retry
            delay = None if policy is None else policy.delay(tries=context.attempt - 1, error=error, random=random)
        if delay is None:
            return None, ""
        if not isinstance(delay, timedelta):
            return None, f" (next_try returned {delay!r:.200}, not a timedelta or None)"
    except BaseException as mistake:
        logger.error("the retry decision of %s %s raised; the task is dead", task_type.name, context.task_id, exc_info=mistake)
        return None, f" (and its retry decision raised {describe(mistake).error_type})"
    return (None if delay < timedelta(0) else _pause(delay, tries=context.attempt)), ""


def _pause(delay: timedelta, *, tries: int = 0) -> float:
    """Seconds until the next attempt, within the limits."""
    floor = FLOOR_SECONDS if tries >= FLOOR_AFTER_TRIES else 0.0
    return min(max(delay.total_seconds(), floor), DELAY_SECONDS_MAX)


def _retry_override(context: Context) -> Retry | None:
    options = context._claimed.options
    stored = None if options is None else json.loads(options).get("retry")
    return None if stored is None else Retry.from_json(stored)


def describe(error: BaseException) -> Failure:
    """What is stored about an exception. Its `str()` may raise, and may hold what PostgreSQL refuses."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except BaseException as mistake:
        message = f"(its str() raised {type(mistake).__name__})"
    try:
        trace = None if isinstance(error, OutcomeRequest) else "".join(_user_trace(error).format())
    except BaseException as mistake:
        trace = f"(its traceback could not be formatted: {type(mistake).__name__})"
    return Failure(
        clean(name)[:500],
        clean(message)[:ERROR_CHARACTERS_MAX],
        None if trace is None else clean(trace)[-TRACEBACK_CHARACTERS_MAX:],
    )


def _user_trace(error: BaseException) -> traceback.TracebackException:
    """The traceback as the author of the task would read it: without the frames of pgqueue that lead to theirs."""
    trace = traceback.TracebackException.from_exception(error, limit=-FRAMES_MAX, compact=True)
    waiting: list[traceback.TracebackException | None] = [trace]
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        while part.stack and part.stack[0].filename.startswith(_OWN_DIRECTORY):
            del part.stack[0]
        waiting += [part.__cause__, part.__context__, *(part.exceptions or ())]
    return trace
