"""`TaskType`: a task class with its options, every one of them checked when the class is decorated. Ground: pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from pgqueue.durations import parse_duration
from pgqueue.errors import ConfigurationError
from pgqueue.recurrence import Recurrence
from pgqueue.requests import (
    IdempotencyKey,
    Unique,
    check_name,
    check_positive,
    check_priority,
    check_tags,
)
from pgqueue.retry import Retry
from pgqueue.task import Task

T = TypeVar("T", bound=Task[Any])
Missed = Literal["last", "skip", "all"]
Execution = Literal["async", "thread", "process"]
PRIORITY_DEFAULT = 100


@dataclass(frozen=True, slots=True)
class TaskType(Generic[T]):
    """A task class, its name and its options. One per registered class; `@task` makes it."""

    name: str
    cls: type[T]
    title: str
    description: str
    execution: Execution
    queue: str = "default"
    priority: int = PRIORITY_DEFAULT
    unique: Unique | None = None
    idempotency_key: IdempotencyKey | None = None
    idempotency_retention: timedelta | None = None
    retry: Retry | None = None
    timeout: timedelta | None = None
    expires: timedelta | None = None
    tags: tuple[str, ...] | None = None
    recurrence: Recurrence | None = None
    missed: Missed = "last"
    history: bool = True
    retention: timedelta | None = None
    result_adapter: TypeAdapter[Any] | None = field(default=None, compare=False, repr=False)
    asks_next_try: bool = False

    def payload_schema(self) -> dict[str, Any]:
        """The payload's JSON schema, for forms and for other languages."""
        return self.cls.model_json_schema(by_alias=True)

    def described_options(self) -> dict[str, Any]:
        """The options as JSON, for the table `task_type`."""
        seconds = {name: getattr(self, name) for name in ("timeout", "expires", "retention", "idempotency_retention")}
        return {
            "queue": self.queue,
            "priority": self.priority,
            "execution": self.execution,
            "unique": None if self.unique is None else list(self.unique.by),
            "recurrence": None if self.recurrence is None else self.recurrence.describe(),
            "retry": "next_try" if self.asks_next_try else None if self.retry is None else self.retry.describe(),
            "tags": list(self.tags or ()),
            "history": self.history,
            **{f"{name}_seconds": None if value is None else value.total_seconds() for name, value in seconds.items()},
        }


def define(
    cls: type[T],
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
    history: bool = True,
    retention: timedelta | None = None,
) -> TaskType[T]:
    """Check every option against the class and against each other. Raises ConfigurationError, naming class and option."""
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise ConfigurationError(f"@task decorates a subclass of pgqueue.Task, not {cls!r}")
    try:
        _check_class(cls)
        documented_title, documented_description = _read_docstring(cls)
        return TaskType(
            name=check_name(kebab(cls.__name__) if name is None else name, "name"),
            cls=cls,
            title=documented_title if title is None else title,
            description=documented_description if description is None else description,
            execution=_execution(cls, executor),
            queue=check_name(queue, "queue"),
            priority=check_priority(priority),
            unique=_unique(cls, unique),
            idempotency_key=_idempotency_key(idempotency_key),
            idempotency_retention=_duration(idempotency_retention, "idempotency_retention"),
            retry=_retry(cls, retry),
            timeout=_duration(timeout, "timeout"),
            expires=_duration(expires, "expires"),
            tags=None if tags is None else check_tags(tags) or None,
            recurrence=_recurrence(cls, frequency=frequency, cron=cron, timezone=timezone),
            missed=_one_of(missed, Missed, "missed"),
            history=_flag(history, "history"),
            retention=_duration(retention, "retention"),
            result_adapter=_result_adapter(cls),
            asks_next_try=cls.next_try is not Task.next_try,
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"@task on {cls.__qualname__}: {error}") from error


def kebab(name: str) -> str:
    """The stable name of a class: SendEmail → send-email, HTTPFetch2 → http-fetch2."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_", "-", name).strip("-").lower()


def fold(name: str) -> str:
    """What two names have in common that count as one: case, `-` and `_` do not matter. SQL's `fold` does the same."""
    return name.replace("-", "").replace("_", "").lower()


def _read_docstring(cls: type[Task[Any]]) -> tuple[str, str]:
    """Title and description: the docstring's first line and the rest; without one, the class's name in words."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    title, _, description = text.partition("\n")
    return title.strip().rstrip(".") or kebab(cls.__name__).replace("-", " ").capitalize(), description.strip()


def _check_class(cls: type[Task[Any]]) -> None:
    if cls.run is Task.run:
        raise ConfigurationError("it has no `run` method: write `async def run(self)` or `def run(self)`")
    for name, info in cls.model_fields.items():
        if info.exclude:
            raise ConfigurationError(f"field {name!r} says exclude=True, so it would not reach the runner: remove that")
        if any(_mentions(info.annotation, secret) for secret in (SecretStr, SecretBytes)):
            raise ConfigurationError(f"field {name!r} is a secret, and payloads are stored as plain JSON: pass a reference to it instead")
    if cls.model_config.get("extra") == "allow":
        raise ConfigurationError('model_config says extra="allow": a payload is its declared fields; use a dict field for the rest')


def _mentions(annotation: Any, wanted: type) -> bool:
    return annotation is wanted or any(_mentions(part, wanted) for part in get_args(annotation))


def _execution(cls: type[Task[Any]], executor: object) -> Execution:
    if executor not in (None, "process"):
        raise ConfigurationError(f'executor takes "process" or nothing, not {executor!r}')
    if inspect.isasyncgenfunction(cls.run) or inspect.isgeneratorfunction(cls.run):
        raise ConfigurationError("`run` yields: a task returns its result once")
    if executor == "process":
        return "process"
    return "async" if inspect.iscoroutinefunction(cls.run) else "thread"


def _unique(cls: type[Task[Any]], unique: object) -> Unique | None:
    if isinstance(unique, bool):
        return Unique() if unique else None
    if not isinstance(unique, Unique):
        raise ConfigurationError(f'unique takes True, False or Unique(by=("field",)), not {unique!r}')
    return check_unique(cls, unique)


def check_unique(cls: type[Task[Any]], unique: Unique) -> Unique:
    """Refuse fields that the class does not have."""
    if missing := [name for name in unique.by if name not in cls.model_fields]:
        raise ConfigurationError(f"Unique(by=...) names {missing[0]!r}; the fields of {cls.__name__} are {', '.join(cls.model_fields) or 'none'}")
    return unique


def _idempotency_key(key: object) -> IdempotencyKey | None:
    if key is None or isinstance(key, str) or callable(key):
        return key
    raise ConfigurationError(f"idempotency_key takes a string or a function of the task, not {key!r}")


def _retry(cls: type[Task[Any]], retry: object) -> Retry | None:
    if retry is not None and not isinstance(retry, Retry):
        raise ConfigurationError(f"retry takes Retry(max_attempts=...), not {retry!r}")
    if retry is not None and cls.next_try is not Task.next_try:
        raise ConfigurationError("both retry= and next_try() decide about retries: keep one of them")
    return retry


def _recurrence(cls: type[Task[Any]], *, frequency: Any, cron: str | None, timezone: str | None) -> Recurrence | None:
    if frequency is not None and cron is not None:
        raise ConfigurationError("both frequency= and cron= say when to run: keep one of them")
    if timezone is not None and cron is None:
        raise ConfigurationError("timezone= belongs to cron=; a frequency follows elapsed time")
    if frequency is None and cron is None:
        return None
    _check_recurring_payload(cls)
    if frequency is not None:
        return Recurrence.every(parse_duration(frequency) if isinstance(frequency, str) else frequency)
    return Recurrence.from_cron(cron, timezone=timezone or "UTC")  # type: ignore[arg-type]  # None is ruled out above


def _check_recurring_payload(cls: type[BaseModel]) -> None:
    """A scheduler makes the task without arguments, so every field needs a default."""
    try:
        cls()
    except ValidationError as error:
        name = ".".join(map(str, error.errors()[0]["loc"])) or "a field"
        raise ConfigurationError(f"a recurring task is made without arguments, so give {name!r} a default") from error


def _duration(value: object, name: str) -> timedelta | None:
    return None if value is None else check_positive(value, name)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} takes True or False, not {value!r}")
    return value


def _one_of(value: Any, literal: Any, name: str) -> Any:
    if value not in get_args(literal):
        raise ConfigurationError(f"{name} takes one of {', '.join(map(repr, get_args(literal)))}, not {value!r}")
    return value


def _result_adapter(cls: type[Task[Any]]) -> TypeAdapter[Any] | None:
    """What checks a result: the R of `Task[R]`, or None where the class names none, which allows whatever JSON holds."""
    for base in cls.__mro__:
        metadata: dict[str, Any] = getattr(base, "__pydantic_generic_metadata__", {})
        if metadata.get("origin") is Task and metadata.get("args"):
            try:
                return TypeAdapter(metadata["args"][0])
            except PydanticSchemaGenerationError as error:
                raise ConfigurationError(f"its result type {metadata['args'][0]!r} cannot be stored as JSON: {error.message}") from error
    return None


Decorator = Callable[[type[T]], type[T]]
