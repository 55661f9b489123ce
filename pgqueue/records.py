"""What reading gives back: a stored task as a value. Ground: pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from pgqueue.overrides import in_force
from pgqueue.states import Status

BLOCKED_REASONS = {
    "type": "no live runner of its queue knows its type",
    "disabled": "its type is disabled",
    "suspect": "it was running in crashes, and waits to run alone",
}
"""What a blocked task waits for, by the word in `task.blocked_on`; another word is shown as it is."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A stored task, wherever it lives. Instants are aware, by the database's clock; `payload` and `result` are JSON values.

    started_at is the instant of the last claim. reason says why it is dead, cancelled, ignored or deleted, or blocked.
    """

    id: uuid.UUID
    queue: str
    type: str
    status: Status
    priority: int
    payload: Any
    maturity_at: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempt: int
    crashes: int
    runner_id: uuid.UUID | None
    tags: tuple[str, ...]
    headers: dict[str, str]
    result: Any
    reason: str | None

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> TaskRecord:
        """A row of get.sql or list.sql."""
        values = list(row)
        values[3] = Status(values[3])
        values[5] = loads(values[5])
        values[13] = tuple(values[13] or ())
        values[14] = loads(values[14]) or {}
        values[15] = loads(values[15])
        if values[3] is Status.BLOCKED:
            values[16] = BLOCKED_REASONS.get(values[16], values[16])
        return cls(*values)

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values: ids and instants as strings."""
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """A failed attempt of a task."""

    attempt: int
    started_at: datetime | None
    finished_at: datetime
    runner_id: uuid.UUID | None
    error_type: str
    error: str
    traceback: str | None

    def as_json(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A queue and its settings. aging: None is strict priority. has_tasks: whether it holds unfinished ones."""

    name: str
    aging: timedelta | None
    paused_at: datetime | None
    has_tasks: bool

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values: lengths of time in seconds."""
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class TypeRecord:
    """A task type as runners registered it, and what operators have set of it.

    `options` are those of its code, `overrides` what is set over them, both as JSON values: lengths of time in seconds.
    disabled_at: None where it is enabled. runners: the names of the live ones that know it.
    """

    name: str
    title: str
    description: str
    payload_schema: dict[str, Any]
    options: dict[str, Any]
    overrides: dict[str, Any]
    disabled_at: datetime | None
    first_seen_at: datetime
    updated_at: datetime
    runners: tuple[str, ...]

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> TypeRecord:
        """A row of type_list.sql."""
        values = list(row)
        values[3:6] = map(loads, values[3:6])
        values[9] = tuple(values[9])
        return cls(*values)

    @property
    def effective(self) -> dict[str, Any]:
        """The options that apply: those of the code with the overrides on top."""
        return in_force(self.options, self.overrides)

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values, the options that apply among them."""
        return {name: _plain(getattr(self, name)) for name in (*(one.name for one in fields(self)), "effective")}


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks, newest id first. `cursor` gives the next page to `list(cursor=...)`; None: this was the last."""

    tasks: tuple[TaskRecord, ...]
    cursor: str | None

    def __iter__(self) -> Iterator[TaskRecord]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


def loads(text: str | None) -> Any:
    """JSON as Python reads it; text that Python cannot read (nested too deeply, a number too long) stays text."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID | Status):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
