"""Schedules as rows: what a task type declares, what a row that is due asks for, and what became of a slot. Ground: pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any

from pgqueue.definition import Missed, TaskType
from pgqueue.errors import ConfigurationError
from pgqueue.preparation import prepare
from pgqueue.recurrence import Cron, Due, Every, Recurrence
from pgqueue.requests import Request
from pgqueue.rrules import RRule
from pgqueue.settings import Settings

CATCH_UP_MAX = 1_000
"""Missed slots that one firing enqueues at most, with `missed="all"`; older ones are skipped."""
SKIPPED_ROWS_MAX = 100
"""Missed slots that one firing writes down as rows, the oldest and the newest; the rest is only counted, in skipped_count."""
DEFINITIONS_MAX = 10_000
"""Recurrences that are kept parsed."""
RULE_ENDED = "its rrule has no further slot"
END_REACHED = "end_at reached"
RUNS_REACHED = "max_runs reached"
"""Why a schedule ends. schedule_fire.sql says the last one by itself."""


@dataclass(frozen=True, slots=True)
class Fired:
    """What became of one slot of a schedule. task_id None: it was skipped, for this reason ("missed", "unfinished task")."""

    app: str
    name: str
    type: str
    slot_at: datetime
    task_id: uuid.UUID | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A row that is due; frequency in seconds, as text. `now` is the database's clock when it was read."""

    now: datetime
    id: uuid.UUID
    app: str
    name: str
    type: str
    frequency: str | None
    cron: str | None
    rrule: str | None
    timezone: str
    missed: Missed
    next_run_at: datetime
    start_at: datetime | None
    end_at: datetime | None
    max_runs: int | None
    fired_count: int

    def due(self) -> Due:
        """Which slots to fire and which to skip. Raises ConfigurationError or OverflowError for a row that makes no sense."""
        recurrence = self._recurrence()
        if self.start_at is not None and self.next_run_at < self.start_at:
            return self._moved(recurrence, self.start_at)
        return recurrence.catch_up(
            next_run_at=self.next_run_at,
            now=self.now,
            missed=self.missed,
            bound=CATCH_UP_MAX,
            end_at=self.end_at,
            runs=self.runs(),
        )

    def runs(self) -> int | None:
        """How many slots may still fire; None: any number."""
        return None if self.max_runs is None else max(0, self.max_runs - self.fired_count)

    def skipped(self, due: Due) -> list[datetime]:
        """The missed slots to write down: the oldest, and the newest."""
        if due.skipped_first_at is None or due.skipped_last_at is None:
            return []
        oldest = islice(_slots(self._recurrence(), due.skipped_first_at), min(due.skipped_count, SKIPPED_ROWS_MAX) - 1)
        return [*oldest, due.skipped_last_at]

    def ended_reason(self, due: Due) -> str:
        """Why it has no next slot, where it has none."""
        if self.runs() == 0:
            return RUNS_REACHED
        last = due.fire[-1] if due.fire else due.skipped_last_at or self.next_run_at
        return RULE_ENDED if self._recurrence().after(last) is None else END_REACHED

    def ends_with(self, due: Due, *, fired_count: int) -> bool:
        """Whether this firing, of which so many slots enqueued a task, is its last."""
        return due.next_run_at is None or fired_count == self.runs()

    def _moved(self, recurrence: Recurrence, start_at: datetime) -> Due:
        """Before its start nothing is a slot: somebody moved the start."""
        first = recurrence.first(start_at, start_at=start_at)
        return Due((), 0, None, None, None if first is None or (self.end_at is not None and first > self.end_at) else first)

    def _recurrence(self) -> Recurrence:
        return recurrence_from(self.frequency, self.cron, self.rrule, self.timezone)


def definition(task_type: TaskType[Any], now: datetime, settings: Settings) -> dict[str, Any]:
    """A row's columns: all that firing needs, so that a scheduler which does not know the type can fire it.

    The task is made here, once: a default_factory of the payload runs when the scheduler starts and not for each slot. An
    idempotency key has no say: a slot is its own. The fingerprint is the recurrence's alone: other changes move no slot.
    """
    recurrence = task_type.recurrence
    assert recurrence is not None
    request = prepare(task_type.cls(), {}, settings)
    return {
        "name": task_type.name,
        "type": request.type,
        "queue": request.queue,
        "missed": task_type.missed,
        "payload": request.payload,
        "options": json.dumps(stored_options(request)),
        "next_run_at": recurrence.first(now),
        "ended_reason": RULE_ENDED,
        **columns_of(recurrence),
    }


def columns_of(recurrence: Recurrence) -> dict[str, Any]:
    """A recurrence as columns. The fingerprint is its alone."""
    rule = recurrence.rule
    return {
        "frequency": rule.frequency if isinstance(rule, Every) else None,
        "cron": rule.expression if isinstance(rule, Cron) else None,
        "rrule": rule.text if isinstance(rule, RRule) else None,
        "timezone": rule.timezone if isinstance(rule, Cron | RRule) else "UTC",
        "fingerprint": recurrence.fingerprint(),
    }


def stored_options(request: Request, unique_by: list[str] | None = None) -> dict[str, Any]:
    """The column `options`: how schedule_fire.sql enqueues. `unique_by`: which fields the key is made of, to make it anew."""
    options = {
        "priority": request.priority,
        "expires": request.expires_seconds,
        "unique_key": None if request.unique_key is None else request.unique_key.hex(),
        "unique_by": unique_by,
        "tags": None if request.tags is None else list(request.tags),
        "overrides": None if request.options is None else json.loads(request.options),
    }
    return {name: value for name, value in options.items() if value is not None}


def recurrence_from(frequency: str | None, cron: str | None, rrule: str | None, timezone: str) -> Recurrence:
    """The recurrence that a row's columns mean; frequency in seconds, as text. Raises ConfigurationError."""
    recurrence = _recurrence(frequency, cron, rrule, timezone)
    if isinstance(recurrence, Exception):
        raise recurrence
    return recurrence


@lru_cache(maxsize=DEFINITIONS_MAX)
def _recurrence(frequency: str | None, cron: str | None, rrule: str | None, timezone: str) -> Recurrence | ConfigurationError:
    """What is wrong is remembered too, for the next round asks again."""
    try:
        if frequency is not None:
            return Recurrence.every(frequency)
        return Recurrence.from_cron(cron, timezone) if cron is not None else Recurrence.from_rrule(rrule or "", timezone)
    except ConfigurationError as error:
        return error


def _slots(recurrence: Recurrence, first: datetime) -> Iterator[datetime]:
    slot_at: datetime | None = first
    while slot_at is not None:
        yield slot_at
        slot_at = recurrence.after(slot_at)
