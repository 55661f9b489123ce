"""`Task`: what a user subclasses. The class is the payload: its pydantic fields are what is stored.

Ground: this module does no I/O. The executor gives an instance its `Context` before `run` is called.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, get_origin

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar, Unpack

from pgqueue.errors import ConfigurationError, PgQueueError

if TYPE_CHECKING:
    from pgqueue.context import Context
    from pgqueue.definition import TaskType
    from pgqueue.requests import EnqueueOptions

R = TypeVar("R", default=None)
"""What `run` returns."""

_CONTEXT = "__pgqueue_context__"


class Task(BaseModel, Generic[R]):
    """One kind of work. Subclass it, add fields, write `run`, and decorate the class with `@task`.

    `Task[Receipt]` says what `run` returns: the result is checked against it, stored as JSON and typed at the handle.
    A task without `[R]` may return anything that JSON can hold. `run` may be `async def` (it gets the event loop) or
    `def` (it gets a thread). An instance is one task; `run` may keep state on locals but should not change fields.
    """

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        # Non-finite numbers are written as such, so that payload.py sees and refuses them; "null" would change them in silence.
        ser_json_inf_nan="constants",
        # Bytes of any content, in nested values of plain types too; as text they could hold nothing but UTF-8.
        ser_json_bytes="base64",
        val_json_bytes="base64",
        validate_by_name=True,
        validate_by_alias=True,
        ignored_types=(property,),
    )

    __task_type__: ClassVar[TaskType[Any] | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _refuse_shadowing(cls)

    def run(self) -> R | Awaitable[R]:
        """The work. What it returns is the result; what it raises fails the attempt."""
        raise NotImplementedError(f"{type(self).__name__}.run is not written")

    @classmethod
    def run_many(
        cls, tasks: Sequence[Any], /
    ) -> Sequence[R | BaseException] | Awaitable[Sequence[R | BaseException] | None] | None:
        """Instead of `run`, with `@task(batch_size=...)`: the work of several tasks of this class in one call.

        Returns one entry for each task, in their order: its result, or the exception that it would have raised. None stands
        for None for each. What it raises fails every task of the call.
        """
        raise NotImplementedError(f"{cls.__name__}.run_many is not written")

    def next_try(self) -> timedelta | None:
        """After a failed attempt: how long until the next one. None or a negative time gives up; zero is at once.

        May read `self.tries` (0 after the first attempt) and `self.context.error`.
        """
        return None

    def on_start(self) -> Awaitable[None] | None:
        """Called before every attempt. These five may be sync or async, and what they raise changes nothing: see hooks.md."""

    def on_success(self, result: R) -> Awaitable[None] | None:
        """Called when an attempt has succeeded, with what `run` returned."""

    def on_failure(self, error: BaseException) -> Awaitable[None] | None:
        """Called for every attempt that failed, before `on_retry` or `on_dead`."""

    def on_retry(self, error: BaseException, delay: timedelta) -> Awaitable[None] | None:
        """Called when an attempt has failed and there will be another after `delay`."""

    def on_dead(self, error: BaseException) -> Awaitable[None] | None:
        """Called when an attempt has failed and there will be no other."""

    @property
    def tries(self) -> int:
        """Attempts made before this one: 0 during the first."""
        context: Context | None = self.__dict__.get(_CONTEXT)
        return 0 if context is None else context._claimed.attempt - 1  # the property would double the price

    @property
    def context(self) -> Context:
        """The running attempt. Raises PgQueueError on a task that is not running."""
        context: Context | None = self.__dict__.get(_CONTEXT)
        if context is None:
            raise PgQueueError(f"{type(self).__name__} is not running: `context` is there only while an attempt runs")
        return context

    def enqueue(self, *, connection: Any = None, **options: Unpack[EnqueueOptions]) -> Any:
        """Enqueue this task on the default queue (`set_default_queue`), or on the running task's own queue.

        With a `Queue` it returns the handle; with an `AsyncQueue` it returns an awaitable of the handle.
        """
        from pgqueue.registry import default_queue

        return default_queue().enqueue(self, connection=connection, **options)


def attach(task: Task[Any], context: Context) -> None:
    """Give a task its running attempt. Kept in the instance's dict, where pydantic does not look for fields."""
    task.__dict__[_CONTEXT] = context


_RESERVED = frozenset(name for name in dir(Task) if not name.startswith("_"))
_ENGINE = frozenset({"context", "tries", "enqueue"})
"""What the engine gives a task. The work and `next_try` are there to be written, and pydantic's own methods may be too."""


def _refuse_shadowing(cls: type[Task[Any]]) -> None:
    """A field named like something of Task would hide it, today or only when it is called."""
    for name, annotation in _own_annotations(cls).items():
        if name in _RESERVED and not _is_class_variable(annotation):
            raise ConfigurationError(
                f"{cls.__name__}.{name}: a field of this name would hide Task.{name}. Name it {name}_ and keep the name in the "
                f'payload with an alias: {name}_: ... = Field(alias="{name}")'
            )
    if hidden := _ENGINE & cls.__dict__.keys():
        name = min(hidden)
        raise ConfigurationError(f"{cls.__name__}.{name} would hide Task.{name}, which the runner gives it: name it otherwise")


def _own_annotations(cls: type) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


def _is_class_variable(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.replace("typing.", "").startswith("ClassVar")
    return annotation is ClassVar or get_origin(annotation) is ClassVar
