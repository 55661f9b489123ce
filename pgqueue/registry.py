"""The registry: which task types this program knows, by name. `@task` fills it.

It lives in no door: `python -m pgqueue.runner` loads that file as `__main__`, and spawn loads it once more.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, overload

from pgqueue.context import Context
from pgqueue.definition import PRIORITY_DEFAULT, Missed, TaskType, define, fold
from pgqueue.errors import ConfigurationError, UnknownTask
from pgqueue.requests import NAME_MAX, IdempotencyKey, Unique
from pgqueue.retry import Retry
from pgqueue.task import Task

T = TypeVar("T", bound=Task[Any])
HINT_MAX = 20
"""Names that the error for an unknown one lists."""


class Registry:
    """Task types by name. Names match ignoring case, `-` and `_`."""

    def __init__(self) -> None:
        self._by_fold: dict[str, TaskType[Any]] = {}
        self._by_name: dict[str, TaskType[Any]] = {}

    def add(self, task_type: TaskType[Any]) -> None:
        """Register a type. The same class met twice is one type; another class of the same name is refused."""
        known = self._by_fold.get(fold(task_type.name))
        if known is not None and not _is_same_class(known.cls, task_type.cls):
            raise ConfigurationError(
                f"two task types are called {task_type.name!r}: {_where(known.cls)} and {_where(task_type.cls)}. "
                'Give one of them another name: @task(name="...")'
            )
        self._by_fold[fold(task_type.name)] = task_type
        self._by_name[task_type.name] = task_type

    def get(self, name: object) -> TaskType[Any]:
        """The type of that name. Raises UnknownTask, which names what is known."""
        task_type = self.find(name)
        if task_type is None:
            shown = repr(name) if not isinstance(name, str) or len(name) <= NAME_MAX else f"by one of {len(name)} characters"
            raise UnknownTask(f"no task type is called {shown}. {self._hint(name)}")
        return task_type

    def find(self, name: object) -> TaskType[Any] | None:
        """The type of that name, or None."""
        return (self._by_name.get(name) or self._by_fold.get(fold(name))) if isinstance(name, str) else None

    def _hint(self, name: object) -> str:
        if not len(self):
            return "Known here: none; import the module that defines it, or name it with --tasks"
        close = get_close_matches(name, self.names(), n=3) if isinstance(name, str) and len(name) <= NAME_MAX else []
        if close:
            return f"Did you mean {' or '.join(close)}?"
        names = sorted(self.names())
        return f"Known here: {', '.join(names[:HINT_MAX])}{', …' if len(names) > HINT_MAX else ''}"

    def names(self) -> list[str]:
        """The canonical names, in the order of registration."""
        return [task_type.name for task_type in self._by_fold.values()]

    def put(self, task_type: TaskType[Any]) -> None:
        """Have a registered type as this one from now on: the same class and name, other options."""
        self._by_fold[fold(task_type.name)] = self._by_name[task_type.name] = task_type

    def twin(self) -> Registry:
        """A registry of the same types, whose changes leave this one alone."""
        twin = Registry()
        twin._by_fold, twin._by_name = dict(self._by_fold), dict(self._by_name)
        return twin

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Start empty, and forget afterwards what was registered meanwhile: for tests."""
        before = dict(self._by_fold), dict(self._by_name)
        self._by_fold.clear()
        self._by_name.clear()
        try:
            yield
        finally:
            self._by_fold, self._by_name = before

    def __iter__(self) -> Iterator[TaskType[Any]]:
        return iter(self._by_fold.values())

    def __len__(self) -> int:
        return len(self._by_fold)


registry = Registry()
"""The registry of this process."""


@overload
def task(cls: type[T], /) -> type[T]: ...
@overload
def task(
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    queue: str = "default",
    priority: int = PRIORITY_DEFAULT,
    frequency: timedelta | float | str | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    missed: Missed = "last",
    unique: bool | Unique = False,
    idempotency_key: IdempotencyKey | None = None,
    idempotency_retention: timedelta | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    expires: timedelta | None = None,
    tags: list[str] | tuple[str, ...] | None = None,
    executor: Literal["process"] | None = None,
    claim: Literal["lease"] | None = None,
    history: bool = True,
    retention: timedelta | None = None,
    batch_size: int | None = None,
) -> Callable[[type[T]], type[T]]: ...
def task(cls: type[T] | None = None, /, **options: Any) -> type[T] | Callable[[type[T]], type[T]]:
    """Register a task class, as `@task` or `@task(priority=200, frequency=timedelta(seconds=5), unique=True)`.

    Every option is checked here: a wrong one raises ConfigurationError at import, not when the task first runs.

    name: stable name, default the class's in kebab case; it is what the database stores, so renaming loses waiting tasks.
    queue, priority: where and how urgently (higher runs first, default 100).
    frequency (a duration) or cron (five fields, with timezone): a scheduler enqueues it; missed: "last", "skip" or "all" of
    the slots that no scheduler was there for. unique: one unfinished task per type and queue, or `Unique(by=("field",))`.
    idempotency_key: a string or a function of the task; the same key returns the first task for `idempotency_retention`.
    retry: a `Retry`; else write `next_try`; default one attempt. timeout: per attempt. expires: not started by then → cancelled.
    executor="process": `run` gets a process of its own kind, which can be killed; for work that holds the CPU.
    claim="lease": each claim is written down before the task starts, which makes a repetition after a crash rarer.
    batch_size: up to so many tasks share one call of the class's `run_many`, which is written instead of `run`.
    history=False: nothing is kept of its finished tasks; retention: less than the fleet's. tags, title, description: for people.
    """

    def decorate(cls: type[T]) -> type[T]:
        if unknown := options.keys() - _OPTION_NAMES:
            known = ", ".join(sorted(_OPTION_NAMES))
            raise ConfigurationError(f"@task on {cls.__qualname__} has no option {min(unknown)!r}; it takes {known}")
        task_type = define(cls, **options)
        registry.add(task_type)
        cls.__task_type__ = task_type
        return cls

    return decorate if cls is None else decorate(cls)


_OPTION_NAMES = {
    name for name, parameter in inspect.signature(define).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY
}


def type_of(task: Task[Any]) -> TaskType[Any]:
    """The type of an instance. Raises ConfigurationError for a class that nobody decorated; a subclass does not inherit it."""
    task_type = type(task).__dict__.get("__task_type__")
    if task_type is None:
        raise ConfigurationError(f"{type(task).__qualname__} is not registered: decorate the class with @task")
    result: TaskType[Any] = task_type
    return result


def _is_same_class(one: type, other: type) -> bool:
    """Whether the two are one class: loaded as `__main__` and by name, reloaded, or typed once more at a prompt."""
    if one is other:
        return True
    if one.__qualname__ != other.__qualname__ or "<locals>" in one.__qualname__:
        return False
    return one.__module__ == other.__module__ or (_file(one) is not None and _file(one) == _file(other))


def _file(cls: type) -> str | None:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return None if file is None else os.path.realpath(file)


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


_default_queue: Any = None
running_context: ContextVar[Context | None] = ContextVar("running_context", default=None)
"""The attempt that runs here, None outside of one."""


def set_default_queue(queue: Any) -> None:
    """Name the queue that `task.enqueue()` uses: a `Queue` or an `AsyncQueue`; None takes it back."""
    global _default_queue
    if queue is not None and not callable(getattr(queue, "enqueue", None)):
        raise ConfigurationError(f"set_default_queue takes a Queue or an AsyncQueue, not {queue!r}")
    _default_queue = queue


def default_queue() -> Any:
    """The running task's queue, else the one named by `set_default_queue`. Raises ConfigurationError without either."""
    context = running_context.get()
    if context is not None:
        return context.queue
    if _default_queue is None:
        raise ConfigurationError(
            "there is no default queue: call pgqueue.set_default_queue(queue) once, or use queue.enqueue(task)"
        )
    return _default_queue
