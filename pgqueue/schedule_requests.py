"""What a caller asks of a schedule at run time, checked before anything is written. Ground: pure, the clock is an argument.

`Definition` is all that a schedule is beside its history. `define_schedule` makes one of what `create` was given, `redefine` of a
stored schedule and what `update` was given, and `place` says when it is due next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, get_args

from typing_extensions import TypedDict

from pgqueue import payload
from pgqueue.definition import Missed, TaskType, check_unique, recurrence_of
from pgqueue.errors import ConfigurationError
from pgqueue.filters import PAGE_MAX
from pgqueue.preparation import prepare
from pgqueue.recurrence import Every, Recurrence
from pgqueue.registry import Registry, type_of
from pgqueue.requests import Unique, check_instant, check_name, check_positive, check_priority, check_tags
from pgqueue.retry import Retry
from pgqueue.schedule_records import Schedule
from pgqueue.schedules import RUNS_REACHED, columns_of, recurrence_from, stored_options
from pgqueue.settings import Settings
from pgqueue.task import Task

MAX_RUNS_MAX = 2**62


class ScheduleOptions(TypedDict, total=False):
    """When a schedule is due, and how its tasks are enqueued."""

    frequency: timedelta | float | str | None
    cron: str | None
    rrule: str | None
    timezone: str | None
    start_at: datetime | None
    end_at: datetime | None
    max_runs: int | None
    missed: Missed | None
    queue: str | None
    priority: int | None
    expires: timedelta | None
    timeout: timedelta | None
    retry: Retry | None
    unique: bool | Unique | None
    tags: list[str] | tuple[str, ...] | None


_OPTIONS = ScheduleOptions.__annotations__
_RECURRENCE = ("frequency", "cron", "rrule", "timezone")
_ENQUEUE = ("queue", "priority", "expires", "timeout", "retry", "unique", "tags")


@dataclass(frozen=True, slots=True)
class Definition:
    """What a schedule is: its task as columns, and its recurrence with its bounds. payload: JSON text; None: as it is stored."""

    type: str
    queue: str
    payload: str | None
    options: dict[str, Any]
    recurrence: Recurrence
    missed: Missed
    start_at: datetime | None
    end_at: datetime | None
    max_runs: int | None

    def columns(self) -> dict[str, Any]:
        """As the statements name them."""
        return {
            "type": self.type,
            "queue": self.queue,
            "payload": self.payload,
            "options": json.dumps(self.options),
            "missed": self.missed,
            "start_at": self.start_at,
            "end_at": self.end_at,
            "max_runs": self.max_runs,
            **columns_of(self.recurrence),
        }


@dataclass(frozen=True, slots=True)
class Place:
    """Where a schedule stands: its next slot, or since when and why it has none."""

    enabled: bool
    next_run_at: datetime | None
    ended_at: datetime | None = None
    ended_reason: str | None = None

    def columns(self) -> dict[str, Any]:
        """As the statements name them."""
        return {
            "enabled": self.enabled,
            "next_run_at": self.next_run_at,
            "ended_at": self.ended_at,
            "ended_reason": self.ended_reason,
        }


def define_schedule(
    task: object, values: object, options: Mapping[str, Any], *, registry: Registry, settings: Settings
) -> Definition:
    """The definition that `create` asks for. Raises ConfigurationError, PayloadError, UnknownTask."""
    check_options(options)
    made = task_of(task, values, registry)
    recurrence = recurrence_of(**{name: options.get(name) for name in _RECURRENCE})
    if recurrence is None:
        raise ConfigurationError("say when a schedule is due: frequency=, cron= or rrule=")
    said = {name: options[name] for name in _ENQUEUE if options.get(name) is not None}
    request = prepare(made, said, settings)
    unique = _unique_fields(type_of(made), options.get("unique"))
    return _bounded(
        Definition(
            type=request.type,
            queue=request.queue,
            payload=request.payload,
            options=stored_options(request, unique),
            recurrence=recurrence,
            missed=options.get("missed") or "last",
            start_at=options.get("start_at"),
            end_at=options.get("end_at"),
            max_runs=options.get("max_runs"),
        )
    )


def redefine(
    known: Schedule, task: object, values: object, options: Mapping[str, Any], *, registry: Registry, settings: Settings
) -> Definition:
    """What a stored schedule becomes with what `update` was given; what is left out stays. Raises as define_schedule."""
    kept = _kept(known, _changed_recurrence(known, options))
    changed = replace(
        kept,
        missed=options.get("missed") or kept.missed,
        **{name: options[name] for name in ("start_at", "end_at", "max_runs") if name in options},
        queue=options.get("queue") or kept.queue,
        options=_changed_options(kept.options, options),
    )
    if task is None and values is None and "unique" not in options:
        return _bounded(changed)
    made = task_of(known.type if task is None else task, known.payload if task is None and values is None else values, registry)
    unique = changed.options.get("unique_by")
    if "unique" in options:
        unique = _unique_fields(type_of(made), False if options["unique"] is None else options["unique"])
    request = prepare(made, {"unique": False if unique is None else Unique(by=tuple(unique))}, settings)
    key = {} if request.unique_key is None else {"unique_key": request.unique_key.hex(), "unique_by": list(unique or ())}
    rest = {name: value for name, value in changed.options.items() if name not in ("unique_key", "unique_by")}
    return _bounded(replace(changed, type=request.type, payload=request.payload, options=rest | key))


def _kept(known: Schedule, recurrence: Recurrence) -> Definition:
    """The definition of a stored schedule, with this recurrence."""
    return Definition(
        type=known.type,
        queue=known.queue,
        payload=None,
        options=known.options,
        recurrence=recurrence,
        missed=known.missed,  # type: ignore[arg-type]  # a constraint of the table
        start_at=known.start_at,
        end_at=known.end_at,
        max_runs=known.max_runs,
    )


def place(wanted: Definition, known: Schedule | None, now: datetime) -> Place:
    """When the schedule is due next. One whose recurrence and bounds are as they were stays where it is, ended or not.

    Raises ConfigurationError if its end is in the past, or if it never comes.
    """
    if known is not None and _window(wanted) == (known.fingerprint, known.start_at, known.end_at, known.max_runs):
        return Place(known.enabled, known.next_run_at, known.ended_at, known.ended_reason)
    if wanted.end_at is not None and wanted.end_at <= now:
        raise ConfigurationError(f"end_at={wanted.end_at.isoformat()} is in the past: give one after {now.isoformat()}")
    if known is not None and wanted.max_runs is not None and known.fired_count >= wanted.max_runs:
        return Place(False, None, now, RUNS_REACHED)
    following = _next(wanted, known, now)
    if following is None or (wanted.end_at is not None and following > wanted.end_at):
        until = "" if following is None else f" before end_at={wanted.end_at}"
        raise ConfigurationError(f"{wanted.recurrence.describe()} never comes{until}: there is no slot after {now.isoformat()}")
    return Place(True, following)


def _next(wanted: Definition, known: Schedule | None, now: datetime) -> datetime | None:
    """A slot that is not moved by the change is kept; a frequency keeps its distance from its last run, or its grid."""
    stays = known is not None and known.enabled and _window(wanted)[:2] == (known.fingerprint, known.start_at)
    if known is not None and stays and known.next_run_at is not None:
        return known.next_run_at
    first = wanted.recurrence.first(now, start_at=wanted.start_at)
    rule = wanted.recurrence.rule
    if known is not None and known.last_run_at is not None and isinstance(rule, Every) and wanted.start_at is None:
        return max(now, known.last_run_at + rule.frequency)
    return first


def _window(wanted: Definition) -> tuple[str, datetime | None, datetime | None, int | None]:
    return wanted.recurrence.fingerprint(), wanted.start_at, wanted.end_at, wanted.max_runs


def _bounded(wanted: Definition) -> Definition:
    """The definition, if its end comes after its start."""
    start_at, end_at = wanted.start_at, wanted.end_at
    if start_at is not None and end_at is not None and end_at <= start_at:
        raise ConfigurationError(f"end_at={end_at.isoformat()} is not after start_at={start_at.isoformat()}")
    return wanted


# ── what is given ───────────────────────────────────────────────────────────────────────────────────────────────────────


def check_changes(task: object, values: object, options: Mapping[str, Any]) -> None:
    """What `update` was given, as far as it is wrong in itself. Raises ConfigurationError."""
    if task is None and values is None and not options:
        raise ConfigurationError(f"update was given nothing to change; it takes task, payload, {', '.join(_OPTIONS)}")
    if isinstance(task, Task) and values is not None:
        raise ConfigurationError("payload= belongs to a class or a name; a task holds its own")
    check_options(options)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what can be refused without knowing the task or the stored schedule. Raises ConfigurationError."""
    if unknown := options.keys() - _OPTIONS:
        raise ConfigurationError(f"a schedule has no option {min(unknown)!r}; it takes {', '.join(_OPTIONS)}")
    said = {name: value for name, value in options.items() if value is not None}
    if said.keys() & {"frequency", "cron", "rrule"}:
        recurrence_of(**{name: said.get(name) for name in _RECURRENCE})
    for name, check in _CHECKS.items():
        if name in said:
            check(said[name], name)


def _check_max_runs(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RUNS_MAX:
        raise ConfigurationError(f"{name} takes a whole number from 1 on, not {value!r:.200}")


def _check_missed(value: object, name: str) -> None:
    if value not in get_args(Missed):
        raise ConfigurationError(f"{name} takes one of {', '.join(map(repr, get_args(Missed)))}, not {value!r:.200}")


def _check_retry(value: object, name: str) -> None:
    if not isinstance(value, Retry):
        raise ConfigurationError(f"{name} takes Retry(max_attempts=...), not {value!r:.200}")


_CHECKS: dict[str, Any] = {
    "start_at": check_instant,
    "end_at": check_instant,
    "max_runs": _check_max_runs,
    "missed": _check_missed,
    "queue": check_name,
    "priority": lambda value, name: check_priority(value),
    "expires": check_positive,
    "timeout": check_positive,
    "retry": _check_retry,
    "tags": lambda value, name: check_tags(value),
}


def task_of(task: object, values: object, registry: Registry) -> Task[Any]:
    """A task that is given as one, or as a class or a type's name with its payload's values."""
    if isinstance(task, Task):
        if values is not None:
            raise ConfigurationError("payload= belongs to a class or a name; a task holds its own")
        return task
    if not (isinstance(task, str) or (isinstance(task, type) and issubclass(task, Task))):
        raise ConfigurationError(f"a schedule takes a task, its class or the name of its type, not {task!r:.200}")
    if values is not None and not isinstance(values, Mapping):
        raise ConfigurationError(f"payload takes a mapping of fields to values, not {values!r:.200}")
    return payload.validate(_type(task, registry), values or {})


def _type(task: str | type[Task[Any]], registry: Registry) -> TaskType[Any]:
    if isinstance(task, str):
        return registry.get(task)
    task_type = task.__dict__.get("__task_type__")
    if task_type is None:
        raise ConfigurationError(f"{task.__qualname__} is not registered: decorate the class with @task")
    result: TaskType[Any] = task_type
    return result


def _unique_fields(task_type: TaskType[Any], unique: object) -> list[str] | None:
    """The payload's fields in the unique key; None: its tasks are not unique. `unique` None: as the type says."""
    if unique is False:
        return None
    if unique is None or unique is True:
        wanted = task_type.unique or (Unique() if unique else None)
    else:
        wanted = check_unique(task_type.cls, unique)
    return None if wanted is None else list(wanted.by)


# ── what is changed ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _changed_recurrence(known: Schedule, options: Mapping[str, Any]) -> Recurrence:
    """Another recurrence keeps the timezone, and another timezone keeps the recurrence. What is replaced is not read."""
    said = {name: options[name] for name in ("frequency", "cron", "rrule") if options.get(name) is not None}
    timezone = options.get("timezone")
    if not said and timezone is None:
        frequency = None if known.frequency is None else str(known.frequency.total_seconds())
        return recurrence_from(frequency, known.cron, known.rrule, known.timezone)
    if not said:
        said = {"frequency": known.frequency} if known.frequency is not None else {"cron": known.cron, "rrule": known.rrule}
    names_zone = "TZID" in str(options.get("rrule")).upper()
    if timezone is None and said.get("frequency") is None and known.frequency is None and not names_zone:
        timezone = known.timezone
    result = recurrence_of(**said, timezone=timezone)
    assert result is not None
    return result


def _changed_options(kept: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """How tasks are enqueued, with the given on top; None takes an option away."""
    changed, overrides = dict(kept), dict(kept.get("overrides") or {})
    if options.get("priority") is not None:
        changed["priority"] = options["priority"]
    if "expires" in options:
        changed["expires"] = None if options["expires"] is None else options["expires"].total_seconds()
    if "tags" in options:
        changed["tags"] = list(check_tags(options["tags"] or ())) or None
    if "timeout" in options:
        overrides["timeout"] = None if options["timeout"] is None else options["timeout"].total_seconds()
    if "retry" in options:
        overrides["retry"] = None if options["retry"] is None else options["retry"].as_json()
    changed["overrides"] = {name: value for name, value in overrides.items() if value is not None} or None
    return {name: value for name, value in changed.items() if value is not None}


# ── which schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Name(NamedTuple):
    """A schedule's name, and the app that it belongs to."""

    app: str
    name: str


class Page(NamedTuple):
    """Which schedules: of this app and type, None any; after this app and name, `limit` of them."""

    app: str | None
    type: str | None
    after: tuple[str, str] | None
    limit: int


def check_schedule_name(name: object, app: str | None, settings: Settings) -> Name:
    """Without an app it is the program's own. Raises ConfigurationError."""
    return Name(settings.application() if app is None else check_name(app, "app"), check_name(name, "name"))


def check_schedule_page(registry: Registry, *, app: str | None, type: str | None, limit: object, cursor: str | None) -> Page:
    """Raises ConfigurationError."""
    known = None if type is None else registry.find(type)
    return Page(
        app=None if app is None else check_name(app, "app"),
        type=None if type is None else check_name(type, "type") if known is None else known.name,
        after=None if cursor is None else _cursor(cursor),
        limit=check_limit(limit),
    )


def check_limit(limit: object) -> int:
    """How many rows a reading gives at most."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_MAX:
        raise ConfigurationError(f"limit takes 1 to {PAGE_MAX}, not {limit!r:.200}")
    return limit


def _cursor(cursor: object) -> tuple[str, str]:
    try:
        app, name = json.loads(cursor)  # type: ignore[arg-type]  # refused below
        return check_name(app, "app"), check_name(name, "name")
    except (ConfigurationError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{cursor!r:.200} is no cursor: it takes the one of the page before") from error
