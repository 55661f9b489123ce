"""What a program wants to be called for while its tasks run: hooks, error handlers and middleware, of one type and of all.

Ground: this module collects and checks them. `hooks_of` says what concerns one type; a runner asks once per type, when it starts,
so a type without any costs nothing. They are called in reactions.py and layers.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from pgqueue.errors import ConfigurationError
from pgqueue.task import Task

F = TypeVar("F", bound=Callable[..., Any])

TAKES = {
    "on_start": ("task",),
    "on_success": ("task", "result"),
    "on_failure": ("task", "error"),
    "on_retry": ("task", "error", "delay"),
    "on_dead": ("task", "error"),
    "on_error": ("queue", "task", "error"),
    "middleware": ("task", "call_next"),
}
"""What each kind is called with, in this order. A method of the class has the task as its self."""
METHODS = ("on_start", "on_success", "on_failure", "on_retry", "on_dead")
"""The kinds that a task class may have as methods."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A function of user code. `is_async`: it is awaited on the loop; otherwise it gets a thread."""

    kind: str
    function: Callable[..., Any]
    is_async: bool

    @property
    def name(self) -> str:
        """As a log names it."""
        return getattr(self.function, "__qualname__", None) or repr(self.function)[:200]

    @property
    def module(self) -> str | None:
        """Where it was written, for a process that must import it."""
        return getattr(self.function, "__module__", None)


@dataclass(frozen=True, slots=True)
class TaskHooks:
    """All that is called for one type, in the order of calling; empty tuples mostly."""

    on_start: tuple[Hook, ...] = ()
    on_success: tuple[Hook, ...] = ()
    on_failure: tuple[Hook, ...] = ()
    on_retry: tuple[Hook, ...] = ()
    on_dead: tuple[Hook, ...] = ()
    on_error: tuple[Hook, ...] = ()
    middleware: tuple[Hook, ...] = ()
    """Outermost first."""

    def __bool__(self) -> bool:
        return any(getattr(self, kind) for kind in TAKES)

    @property
    def wraps(self) -> bool:
        """Whether an attempt that succeeds calls any of these."""
        return bool(self.on_start or self.on_success or self.middleware)

    @property
    def thread_depth(self) -> int:
        """How many threads one attempt may hold at a time, at most: each sync layer may wait in its own for the next."""
        return 1 + sum(not layer.is_async for layer in self.middleware)


NO_HOOKS = TaskHooks()


class _Everywhere:
    """What is called for every type."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[Hook]] = {kind: [] for kind in TAKES}
        self.around_calls: list[Hook] = []
        """The middleware that wants the calls of batch types too."""


_everywhere = _Everywhere()


def on_start(function: F) -> F:
    """Call `function(task)` before every attempt of every task. Sync or async, as are the others."""
    return _register("on_start", function)


def on_success(function: F) -> F:
    """Call `function(task, result)` when an attempt has succeeded, with what `run` returned."""
    return _register("on_success", function)


def on_failure(function: F) -> F:
    """Call `function(task, error)` for every attempt that failed, whether the task will be tried again or not."""
    return _register("on_failure", function)


def on_retry(function: F) -> F:
    """Call `function(task, error, delay)` when a failed task will be tried again after `delay`, a timedelta."""
    return _register("on_retry", function)


def on_dead(function: F) -> F:
    """Call `function(task, error)` when a task has failed for the last time."""
    return _register("on_dead", function)


def on_error(function: F) -> F:
    """Call `function(queue, task, error)` for every failed attempt: for alerting.

    `queue` is a client to enqueue with, an `AsyncQueue` for an async function and a `Queue` for others. It is told of payloads
    that do not validate too: then `task` has its context and no fields.
    """
    return _register("on_error", function)


@overload
def middleware(function: F, /) -> F: ...
@overload
def middleware(*, batches: bool = False) -> Callable[[F], F]: ...
def middleware(function: F | None = None, /, *, batches: bool = False) -> F | Callable[[F], F]:
    """Wrap the `run` of every task: `function(task, call_next)` returns what `call_next()` gave, awaited in an async function.

    What it returns is the result and what it raises is the failure, as if `run` had. The first one registered is the outermost;
    those of a type come after all of these. batches: wrap the calls of batch types too, with the list of tasks as `task`.
    """
    if not isinstance(batches, bool):
        raise ConfigurationError(f"middleware: batches takes True or False, not {batches!r}")

    def decorate(function: F) -> F:
        _register("middleware", function)
        if batches and not any(layer.function is function for layer in _everywhere.around_calls):
            _everywhere.around_calls.append(_checked("middleware", function))
        return function

    return decorate if function is None else decorate(function)


@contextmanager
def isolated() -> Iterator[None]:
    """Start without any, and forget afterwards what was registered meanwhile: for tests."""
    global _everywhere
    before, _everywhere = _everywhere, _Everywhere()
    try:
        yield
    finally:
        _everywhere = before


def own_hooks(cls: type[Task[Any]], **options: Any) -> TaskHooks:
    """What a class brings along: its methods, then what the options of `@task` name. Raises ConfigurationError."""
    collected = {kind: (*_method(cls, kind), *_listed(kind, options.get(kind))) for kind in METHODS}
    return TaskHooks(**collected, middleware=_listed("middleware", options.get("middleware")))


def hooks_of(own: TaskHooks, *, is_batch: bool = False) -> TaskHooks:
    """What is called for a type: everybody's hooks around its own, as layers lie around a core.

    So `on_start` is called from the outside in, and what follows `run` from the inside out.
    """
    shared = {kind: tuple(hooks) for kind, hooks in _everywhere.hooks.items()}
    layers = tuple(_everywhere.around_calls) if is_batch else shared["middleware"]
    return TaskHooks(
        on_start=shared["on_start"] + own.on_start,
        on_success=own.on_success + shared["on_success"],
        on_failure=own.on_failure + shared["on_failure"],
        on_retry=own.on_retry + shared["on_retry"],
        on_dead=own.on_dead + shared["on_dead"],
        on_error=shared["on_error"],
        middleware=layers + own.middleware,
    )


def middleware_modules() -> tuple[str, ...]:
    """The modules that everybody's middleware was written in: a process that runs tasks must import them first."""
    return tuple(dict.fromkeys(layer.module for layer in _everywhere.hooks["middleware"] if layer.module is not None))


def _register(kind: str, function: F) -> F:
    hook = _checked(kind, function)
    if not any(known.function is function for known in _everywhere.hooks[kind]):
        _everywhere.hooks[kind].append(hook)
    return function


def _method(cls: type[Task[Any]], kind: str) -> tuple[Hook, ...]:
    """The class's own method of that name, if it has written one."""
    method = inspect.getattr_static(cls, kind)
    if method is inspect.getattr_static(Task, kind):
        return ()
    if not inspect.isroutine(method) or isinstance(method, staticmethod | classmethod):
        signature = ", ".join(("self", *TAKES[kind][1:]))
        raise ConfigurationError(f"`{kind}` is a method: write `def {kind}({signature})`")
    return (_checked(kind, method),)


def _listed(kind: str, value: Any) -> tuple[Hook, ...]:
    if value is None:
        return ()
    return tuple(_checked(kind, one) for one in (value if isinstance(value, list | tuple) else (value,)))


def _checked(kind: str, function: Any) -> Hook:
    """Refuse what cannot be called with what this kind gets. Raises ConfigurationError."""
    takes = ", ".join(TAKES[kind])
    if not callable(function) or isinstance(function, type):
        raise ConfigurationError(f"{kind} takes a function of ({takes}), not {function!r:.200}")
    call = getattr(function, "__call__", None)  # noqa: B004  # an object may have an async one
    if any(test(one) for one in (function, call) for test in (inspect.isgeneratorfunction, inspect.isasyncgenfunction)):
        raise ConfigurationError(f"{kind} takes a function that returns: {_called(function)} yields")
    try:
        inspect.signature(function).bind(*TAKES[kind])
    except TypeError as error:
        raise ConfigurationError(f"{kind}: {_called(function)} is called with ({takes}): {error}") from error
    except ValueError:  # one written in C has no signature to look at
        pass
    return Hook(kind, function, inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call))


def _called(function: Any) -> str:
    return str(getattr(function, "__qualname__", repr(function)[:200]))
