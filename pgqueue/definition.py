"""`TaskType`: a task class with its options, every one of them checked when the class is decorated. Ground: pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import AliasChoices, BaseModel, ConfigDict, SecretBytes, SecretStr, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from typing_extensions import is_typeddict

from pgqueue.errors import ConfigurationError
from pgqueue.recurrence import Recurrence
from pgqueue.requests import (
    IdempotencyKey,
    Unique,
    check_name,
    check_positive,
    check_priority,
    check_tags,
    check_text,
)
from pgqueue.retry import Retry
from pgqueue.task import Task

T = TypeVar("T", bound=Task[Any])
Missed = Literal["last", "skip", "all"]
Execution = Literal["async", "thread", "process"]
PRIORITY_DEFAULT = 100
TITLE_MAX = 1_000
DESCRIPTION_MAX = 20_000
BATCH_SIZE_MAX = 10_000
"""As many as one claim may take at most."""
_RESULT_CONFIG = ConfigDict(allow_inf_nan=False, ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64")
"""As the payload's: see Task."""


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
    claim: Literal["lease"] | None = None
    history: bool = True
    retention: timedelta | None = None
    batch_size: int | None = None
    """How many tasks one call of `run_many` takes at most; None: `run` is called for each."""
    result_adapter: TypeAdapter[Any] | None = field(default=None, compare=False, repr=False)
    asks_next_try: bool = False
    overrides: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """What operators have set over the options of the code, as stored (overrides.py); None where nothing is."""

    def payload_schema(self) -> dict[str, Any]:
        """The payload's JSON schema, for forms and for other languages; of a field that has none, only that it is an object."""
        try:
            return self.cls.model_json_schema(by_alias=True)
        except PydanticInvalidForJsonSchema:
            return {"type": "object", "title": self.title}

    def described_options(self) -> dict[str, Any]:
        """The options as JSON, for the table `task_type`."""
        seconds = {name: getattr(self, name) for name in ("timeout", "expires", "retention", "idempotency_retention")}
        return {
            "queue": self.queue,
            "priority": self.priority,
            "execution": self.execution,
            "claim": self.claim,
            "unique": None if self.unique is None else list(self.unique.by),
            "recurrence": None if self.recurrence is None else self.recurrence.describe(),
            "retry": "next_try" if self.asks_next_try else None if self.retry is None else self.retry.describe(),
            "tags": list(self.tags or ()),
            "history": self.history,
            "batch_size": self.batch_size,
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
    claim: Literal["lease"] | None = None,
    history: bool = True,
    retention: timedelta | None = None,
    batch_size: int | None = None,
) -> TaskType[T]:
    """Check every option against the class and against each other. Raises ConfigurationError, naming class and option."""
    _check_is_task(cls)
    try:
        _check_batch(cls, batch_size, executor)
        _check_class(cls)
        documented_title, documented_description = _read_docstring(cls)
        return TaskType(
            name=check_type_name(kebab(cls.__name__) if name is None else name),
            cls=cls,
            title=check_text(documented_title if title is None else title, "title", limit=TITLE_MAX),
            description=check_text(
                documented_description if description is None else description, "description", limit=DESCRIPTION_MAX
            ),
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
            recurrence=_recurrence(cls, frequency=frequency, cron=cron, timezone=timezone, missed=missed),
            missed=_one_of(missed, Missed, "missed"),
            claim=_claim(claim),
            history=_flag(history, "history"),
            retention=_retention(retention, history=history),
            batch_size=batch_size,
            result_adapter=_result_adapter(cls),
            asks_next_try=cls.next_try is not Task.next_try,
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"@task on {cls.__qualname__}: {error}") from error


def check_type_name(name: Any) -> str:
    """A type's name: something must be left of it once case, `-` and `_` do not count."""
    checked = check_name(name, "name")
    if not fold(checked):
        raise ConfigurationError(f"name {checked!r} has nothing but - and _, which do not count when names are compared")
    return checked


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


def _check_is_task(cls: object) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise ConfigurationError(f"@task decorates a subclass of pgqueue.Task, not {cls!r:.200}")


def _check_class(cls: type[Task[Any]]) -> None:
    if cls.run is Task.run and not _runs_many(cls):
        raise ConfigurationError("it has no `run` method: write `async def run(self)` or `def run(self)`")
    for name in ("run", "next_try"):
        _check_takes_self_alone(cls, name)
    if inspect.iscoroutinefunction(cls.next_try):
        raise ConfigurationError("`next_try` is asked outside the loop: write `def next_try`, not `async def`")
    if cls.model_config.get("extra") == "allow":
        raise ConfigurationError('extra="allow" in model_config: a payload is its declared fields; use a dict field for the rest')
    _check_fields(cls, "", set())
    _check_aliases(cls)


def _check_takes_self_alone(cls: type[Task[Any]], name: str) -> None:
    method = inspect.getattr_static(cls, name)
    if not inspect.isroutine(method) or isinstance(method, staticmethod | classmethod):
        raise ConfigurationError(f"`{name}` is a method that takes self: write `def {name}(self)`")
    try:
        inspect.signature(method).bind(cls)
    except TypeError as error:
        raise ConfigurationError(f"`{name}` is called with self alone ({error}): what it needs is a field") from error


def _runs_many(cls: type[Task[Any]]) -> bool:
    return inspect.getattr_static(cls, "run_many") is not inspect.getattr_static(Task, "run_many")


def _check_batch(cls: type[Task[Any]], batch_size: object, executor: object) -> None:
    """`batch_size=` and `run_many` belong together, and leave nothing for `run` to do."""
    if batch_size is None:
        if _runs_many(cls):
            raise ConfigurationError("it has `run_many` and no batch_size=, which says how many tasks one call takes at most")
        return
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= BATCH_SIZE_MAX:
        raise ConfigurationError(f"batch_size takes a whole number from 1 to {BATCH_SIZE_MAX:,}, not {batch_size!r:.200}")
    if not _runs_many(cls):
        raise ConfigurationError("batch_size= needs a `run_many`: write `@classmethod async def run_many(cls, tasks)`")
    if cls.run is not Task.run:
        raise ConfigurationError("both `run` and `run_many` say what the work is: keep one of them")
    if executor is not None:
        raise ConfigurationError("batch_size= and executor= exclude each other: `run_many` runs on the loop or in a thread")
    _check_takes_tasks_alone(cls)


def _check_takes_tasks_alone(cls: type[Task[Any]]) -> None:
    if not isinstance(inspect.getattr_static(cls, "run_many"), staticmethod | classmethod):
        raise ConfigurationError("`run_many` is called for many tasks, so on the class: make it a classmethod")
    try:
        inspect.signature(cls.run_many).bind([])
    except TypeError as error:
        raise ConfigurationError(f"`run_many` is called with the tasks alone ({error})") from error


def _check_fields(model: type[BaseModel], path: str, seen: set[Any]) -> None:
    """Refuse fields whose values would not reach the runner, here and in the models and dataclasses they hold."""
    for name, info in model.model_fields.items():
        where = f"field {path}{name}"
        if info.exclude or getattr(info, "exclude_if", None) is not None:
            raise ConfigurationError(f"{where} is excluded from the payload, so it would not reach the runner: remove that")
        _check_kind(info.annotation, where, seen)


def _check_kind(annotation: Any, where: str, seen: set[Any]) -> None:
    """Walk an annotation down to the types it names."""
    for part in get_args(annotation):
        _check_kind(part, where, seen)
    if not isinstance(annotation, type) or annotation in seen:
        return
    seen.add(annotation)
    if issubclass(annotation, SecretStr | SecretBytes):
        raise ConfigurationError(f"{where} is a secret, and payloads are stored as plain JSON: pass a reference to it instead")
    if issubclass(annotation, BaseModel):
        _check_fields(annotation, f"{where.removeprefix('field ')}.", seen)
    elif is_dataclass(annotation):
        for part in fields(annotation):
            _check_kind(part.type, f"{where}.{part.name}", seen)
    elif is_typeddict(annotation):
        for name, part in annotation.__annotations__.items():
            _check_kind(part, f"{where}.{name}", seen)


def _check_aliases(cls: type[Task[Any]]) -> None:
    """What a field is called in the stored payload must be what it is read back by, and no other field's name."""
    owners: dict[str, str] = {}
    for name, info in cls.model_fields.items():
        stored = info.serialization_alias or name
        read = info.validation_alias
        choices = read.choices if isinstance(read, AliasChoices) else [read]
        if stored not in (name, *choices):
            raise ConfigurationError(
                f'field {name!r} is stored as {stored!r} but not read by that name: use Field(alias="{stored}") alone'
            )
        if owners.setdefault(stored, name) != name:
            raise ConfigurationError(f"fields {owners[stored]!r} and {name!r} are both stored as {stored!r}")


def _execution(cls: type[Task[Any]], executor: object) -> Execution:
    if executor not in (None, "process"):
        raise ConfigurationError(f'executor takes "process" or nothing, not {executor!r}')
    name = "run_many" if _runs_many(cls) else "run"
    method = getattr(cls, name)
    if inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
        raise ConfigurationError(f"`{name}` yields: it returns once")
    if executor == "process":
        return "process"
    return "async" if inspect.iscoroutinefunction(method) else "thread"


def _claim(claim: object) -> Literal["lease"] | None:
    if claim not in (None, "lease"):
        raise ConfigurationError(f'claim takes "lease" or nothing, not {claim!r}')
    return "lease" if claim == "lease" else None


def _unique(cls: type[Task[Any]], unique: object) -> Unique | None:
    if isinstance(unique, bool):
        return Unique() if unique else None
    return check_unique(cls, unique)


def check_unique(cls: type[Task[Any]], unique: object) -> Unique:
    """Refuse what is no `Unique`, and fields that the class does not have."""
    if not isinstance(unique, Unique):
        raise ConfigurationError(f'unique takes True, False or Unique(by=("field",)), not {unique!r}')
    if missing := [name for name in unique.by if name not in cls.model_fields]:
        known = ", ".join(cls.model_fields) or "none"
        raise ConfigurationError(f"Unique(by=...) names {missing[0]!r}; the fields of {cls.__name__} are {known}")
    return unique


def _idempotency_key(key: object) -> IdempotencyKey | None:
    if inspect.iscoroutinefunction(key):
        raise ConfigurationError("idempotency_key takes a plain function of the task, not an async one")
    if key is None or (isinstance(key, str) and key) or callable(key):
        return key
    raise ConfigurationError(f"idempotency_key takes a string that is not empty or a function of the task, not {key!r}")


def _retry(cls: type[Task[Any]], retry: object) -> Retry | None:
    if retry is not None and not isinstance(retry, Retry):
        raise ConfigurationError(f"retry takes Retry(max_attempts=...), not {retry!r}")
    if retry is not None and cls.next_try is not Task.next_try:
        raise ConfigurationError("both retry= and next_try() decide about retries: keep one of them")
    return retry


def _recurrence(cls: type[Task[Any]], *, frequency: Any, cron: Any, timezone: Any, missed: str) -> Recurrence | None:
    if frequency is not None and cron is not None:
        raise ConfigurationError("both frequency= and cron= say when to run: keep one of them")
    if timezone is not None and cron is None:
        raise ConfigurationError("timezone= belongs to cron=; a frequency follows elapsed time")
    if frequency is None and cron is None:
        if missed != "last":
            raise ConfigurationError("missed= belongs to frequency= or cron=: without one there are no slots to miss")
        return None
    _check_recurring_payload(cls)
    if frequency is not None:
        return Recurrence.every(frequency)
    if timezone is not None and not isinstance(timezone, str):
        raise ConfigurationError(f'timezone takes a name such as "Europe/Berlin", not {timezone!r}')
    return Recurrence.from_cron(cron, timezone="UTC" if timezone is None else timezone)


def _check_recurring_payload(cls: type[BaseModel]) -> None:
    """A scheduler makes the task without arguments, so every field needs a default."""
    if needed := [name for name, info in cls.model_fields.items() if info.is_required()]:
        raise ConfigurationError(f"a recurring task is made without arguments, so give {needed[0]!r} a default")
    try:
        cls()
    except Exception as error:  # user code: validators and default factories
        raise ConfigurationError(f"a recurring task is made without arguments, and that fails: {error}") from error


def _retention(value: object, *, history: object) -> timedelta | None:
    if value is not None and history is False:
        raise ConfigurationError("retention= says how long history is kept, and history=False keeps none: keep one of them")
    return _duration(value, "retention")


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
    result_type = _result_type(cls)
    if result_type is None or isinstance(result_type, TypeVar):
        return None
    try:
        try:
            return TypeAdapter(result_type, config=_RESULT_CONFIG)
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
            return TypeAdapter(result_type)  # a model or dataclass, which brings its own
    except (PydanticUserError, NameError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"its result type {result_type!r} cannot be stored as JSON: {reason}") from error


def _result_type(cls: type[Task[Any]]) -> Any:
    """The R of `Task[R]`, also of one further up, `class Base(Task[list[T]], Generic[T])`; None where none is named."""
    known: dict[Any, Any] = {}
    for base in cls.__mro__:
        generic: dict[str, Any] = base.__dict__.get("__pydantic_generic_metadata__", {})
        origin, arguments = generic.get("origin"), generic.get("args", ())
        if origin is None or not arguments:
            continue
        filled = [_filled(argument, known) for argument in arguments]
        if origin is Task:
            return type(None) if filled[0] is None else filled[0]
        known.update(zip(origin.__pydantic_generic_metadata__["parameters"], filled, strict=False))
    return None


def _filled(argument: Any, known: dict[Any, Any]) -> Any:
    """A type with its variables replaced by what is known of them."""
    if isinstance(argument, TypeVar):
        return known.get(argument, argument)
    parameters = getattr(argument, "__parameters__", ())
    return argument[tuple(known.get(one, one) for one in parameters)] if parameters else argument
