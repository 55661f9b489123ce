"""What reading schedules gives back: a schedule, and what became of its slots, as values. Ground: pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pgqueue.durations import format_duration
from pgqueue.records import loads

Source = Literal["code", "runtime"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A stored schedule. Instants are aware, by the database's clock; `payload` and `options` are JSON values.

    One of frequency, cron and rrule is set. enabled: whether it has slots to come; where it has not, ended_reason says why
    ("max_runs reached", "end_at reached", "its rrule has no further slot", "no longer declared") and next_run_at is None.
    paused_at: since when no slot fires; its slots go by meanwhile. fired_count: slots that enqueued a task, which is what
    max_runs counts; what was triggered by hand is in triggered_count alone.
    """

    id: uuid.UUID
    app: str
    name: str
    source: Source
    type: str
    queue: str
    payload: Any
    options: dict[str, Any]
    frequency: timedelta | None
    cron: str | None
    rrule: str | None
    timezone: str
    missed: str
    start_at: datetime | None
    end_at: datetime | None
    max_runs: int | None
    fingerprint: str
    enabled: bool
    paused_at: datetime | None
    ended_at: datetime | None
    ended_reason: str | None
    next_run_at: datetime | None
    last_run_at: datetime | None
    fired_count: int
    skipped_count: int
    triggered_count: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Schedule:
        """A row of schedule_list.sql."""
        values = list(row)
        values[6] = loads(values[6])
        options = loads(values[7])
        values[7] = options if isinstance(options, dict) else {}
        values[8] = None if values[8] is None else _length(values[8])
        return cls(*values)

    def recurs(self) -> str:
        """For people: `every 5m`, `0 3 * * * (Europe/Berlin)`."""
        if self.frequency is not None:
            return f"every {format_duration(self.frequency)}"
        return f"{self.cron or self.rrule} ({self.timezone})"

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values: ids and instants as strings, lengths of time in seconds."""
        return {name: _plain(value) for name, value in asdict(self).items() if name != "fingerprint"}


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """What became of one slot: outcome "fired" or "skipped". is_trigger: somebody triggered it, and it is no slot of the rule."""

    slot_at: datetime
    outcome: str
    reason: str | None
    task_id: uuid.UUID | None
    is_trigger: bool
    decided_at: datetime

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """Schedules by app and name. `cursor` gives the next page to `schedules.list(cursor=...)`; None: this was the last."""

    schedules: tuple[Schedule, ...]
    cursor: str | None

    def __iter__(self) -> Iterator[Schedule]:
        return iter(self.schedules)

    def __len__(self) -> int:
        return len(self.schedules)


def _length(seconds: str) -> timedelta:
    """PostgreSQL's intervals reach further than Python's."""
    try:
        return timedelta(seconds=float(seconds))
    except OverflowError:
        return timedelta.max


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, uuid.UUID) else value
