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
from pgqueue.settings import Settings

CATCH_UP_MAX = 1_000
"""Missed slots that one firing enqueues at most, with `missed="all"`; older ones are skipped."""
SKIPPED_ROWS_MAX = 100
"""Missed slots that one firing writes down as rows, the oldest and the newest; the rest is only counted, in skipped_count."""
DEFINITIONS_MAX = 10_000
"""Recurrences that are kept parsed."""


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
class Schedule:
    """A row that is due; frequency in seconds, as text. `now` is the database's clock when it was read."""

    now: datetime
    id: uuid.UUID
    app: str
    name: str
    type: str
    frequency: str | None
    cron: str | None
    timezone: str
    missed: Missed
    next_run_at: datetime

    def due(self) -> Due:
        """Which slots to fire and which to skip. Raises ConfigurationError or OverflowError for a row that makes no sense."""
        recurrence = _recurrence(self.frequency, self.cron, self.timezone)
        if isinstance(recurrence, Exception):
            raise recurrence
        return recurrence.catch_up(next_run_at=self.next_run_at, now=self.now, missed=self.missed, bound=CATCH_UP_MAX)

    def skipped(self, due: Due) -> list[datetime]:
        """The missed slots to write down: the oldest, and the newest."""
        if due.skipped_first_at is None or due.skipped_last_at is None:
            return []
        recurrence = _recurrence(self.frequency, self.cron, self.timezone)
        assert isinstance(recurrence, Recurrence)
        oldest = islice(_slots(recurrence, due.skipped_first_at), min(due.skipped_count, SKIPPED_ROWS_MAX) - 1)
        return [*oldest, due.skipped_last_at]


def definition(task_type: TaskType[Any], now: datetime, settings: Settings) -> dict[str, Any]:
    """A row's columns: all that firing needs, so that a scheduler which does not know the type can fire it.

    The task is made here, once: a default_factory of the payload runs when the scheduler starts and not for each slot. An
    idempotency key has no say: a slot is its own. The fingerprint is the recurrence's alone: other changes move no slot.
    """
    recurrence = task_type.recurrence
    assert recurrence is not None
    request = prepare(task_type.cls(), {}, settings)
    options = {
        "priority": request.priority,
        "expires": request.expires_seconds,
        "unique_key": None if request.unique_key is None else request.unique_key.hex(),
        "tags": None if request.tags is None else list(request.tags),
    }
    rule = recurrence.rule
    return {
        "name": task_type.name,
        "type": request.type,
        "queue": request.queue,
        "frequency": rule.frequency if isinstance(rule, Every) else None,
        "cron": rule.expression if isinstance(rule, Cron) else None,
        "timezone": rule.timezone if isinstance(rule, Cron) else "UTC",
        "missed": task_type.missed,
        "payload": request.payload,
        "options": json.dumps({name: value for name, value in options.items() if value is not None}),
        "fingerprint": recurrence.fingerprint(),
        "next_run_at": recurrence.first(now),
    }


@lru_cache(maxsize=DEFINITIONS_MAX)
def _recurrence(frequency: str | None, cron: str | None, timezone: str) -> Recurrence | ConfigurationError:
    """The recurrence that a row's columns mean, or what is wrong with them: remembered too, for the next round asks again."""
    try:
        return Recurrence.every(frequency) if frequency is not None else Recurrence.from_cron(cron or "", timezone)
    except ConfigurationError as error:
        return error


def _slots(recurrence: Recurrence, first: datetime) -> Iterator[datetime]:
    slot_at = first
    while True:
        yield slot_at
        slot_at = recurrence.after(slot_at)
