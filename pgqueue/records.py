"""What reading gives back: a stored task as a value. Ground: pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from pgqueue.states import Status


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A stored task, wherever it lives. Instants are aware, by the database's clock; `payload` and `result` are JSON values.

    started_at is the instant of the last claim. reason says why it is dead, cancelled, ignored or deleted. progress is what its
    latest attempt last reported, from 0 to 1; lists leave it out, since it costs a look for each task.
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
    progress: float | None = None

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> TaskRecord:
        """A row of get.sql or list.sql."""
        values = list(row)
        values[3] = Status(values[3])
        values[5] = loads(values[5])
        values[13] = tuple(values[13] or ())
        values[14] = loads(values[14]) or {}
        values[15] = loads(values[15])
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
class LogRecord:
    """A line that a task logged, or a report of its progress. Ids grow in the order of writing; a level is "debug", "info",
    "warning" or "error"."""

    id: int
    attempt: int
    logged_at: datetime
    level: str
    message: str
    progress: float | None

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
