"""Operations on schedules at run time, as generators: `Schedules` and `AsyncSchedules` share every line. No I/O here.

Those that change a schedule lock its row, in one transaction: they wait for a firing that is under way, and schedulers pass it by
meanwhile.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC
from typing import Any

from pgqueue import operations
from pgqueue.database import Operation
from pgqueue.errors import ConfigurationError, EnqueueConflict, ScheduleNotFound
from pgqueue.operations import Inserted
from pgqueue.requests import Request
from pgqueue.schedule_records import Schedule, SchedulePage, SlotRecord
from pgqueue.schedule_requests import Definition, Name, Page, place
from pgqueue.statements import Statements

PAYLOAD = 6
"""Where a row of schedule_list.sql has its payload, as the text that it is: read and written again a number may change."""
CREATE_TRIES_MAX = 10
"""How often a create looks again for a schedule of its name that comes and goes."""


def get(sql: Statements, name: Name) -> Operation[Schedule | None]:
    rows = yield sql.schedule_get(app=name.app, name=name.name)
    return Schedule.from_row(rows[0]) if rows else None


def list_schedules(sql: Statements, page: Page) -> Operation[SchedulePage]:
    """One page. One row more than the limit is read, to know whether there is a next page."""
    after_app, after_name = page.after or (None, None)
    rows = yield sql.schedule_list(app=page.app, type=page.type, after_app=after_app, after_name=after_name, limit=page.limit + 1)
    schedules = tuple(Schedule.from_row(row) for row in rows[: page.limit])
    return SchedulePage(schedules, json.dumps([schedules[-1].app, schedules[-1].name]) if len(rows) > page.limit else None)


def slots(sql: Statements, name: Name, limit: int) -> Operation[list[SlotRecord]]:
    """What became of its newest slots. Raises ScheduleNotFound."""
    found = yield from _found(sql, name)
    rows = yield sql.schedule_slots(id=found.id, limit=limit)
    return [SlotRecord(*row) for row in rows]


def create(sql: Statements, name: Name, wanted: Definition) -> Operation[Schedule]:
    """Insert it, or make the one of that name the same. Needs a transaction. Raises ConfigurationError."""
    for _ in range(CREATE_TRIES_MAX):
        known = yield from _locked(sql, name)
        now = (yield sql.clock())[0][0]
        if known is not None:
            return (yield from _change(sql, known, wanted, place(wanted, known, now).columns()))
        following = place(wanted, None, now).next_run_at
        rows = yield sql.schedule_create(app=name.app, name=name.name, next_run_at=following, **wanted.columns())
        if rows:
            return Schedule.from_row(rows[0])
    raise EnqueueConflict(f"a schedule called {name.name!r} came and went {CREATE_TRIES_MAX} times: create it again")


def update(sql: Statements, name: Name, redefine: Callable[[Schedule], Definition]) -> Operation[Schedule]:
    """Make it what `redefine` makes of it. Needs a transaction. Raises ScheduleNotFound, ConfigurationError, PayloadError."""
    known = yield from _locked(sql, name)
    if known is None:
        raise _missing(name)
    _check_runtime(known)
    wanted = redefine(known)
    now = (yield sql.clock())[0][0]
    return (yield from _change(sql, known, wanted, place(wanted, known, now).columns()))


def pause(sql: Statements, name: Name, *, pauses: bool) -> Operation[Schedule]:
    """Raises ScheduleNotFound."""
    rows = yield sql.schedule_pause(app=name.app, name=name.name, pauses=pauses)
    if not rows:
        raise _missing(name)
    return Schedule.from_row(rows[0])


def delete(sql: Statements, name: Name, *, repeated: bool = False) -> Operation[bool]:
    """Whether there was one. `repeated`: an attempt whose commit is unknown may have deleted it. Raises ConfigurationError."""
    if (yield sql.schedule_delete(app=name.app, name=name.name)):
        return True
    known = yield from get(sql, name)
    if known is not None:
        raise ConfigurationError(
            f"schedule {name.name!r} is declared in code, which would bring it back: remove it there, or pause it here"
        )
    return repeated


def trigger(sql: Statements, name: Name, task_id: uuid.UUID, *, repeated: bool = False) -> Operation[tuple[Inserted, str]]:
    """Enqueue its task now, beside its slots; the task that stands for it, and its type. Needs a transaction.

    `repeated`: an attempt whose commit is unknown may have done it. Raises ScheduleNotFound, EnqueueConflict.
    """
    rows = yield sql.schedule_lock(app=name.app, name=name.name)
    if not rows:
        raise _missing(name)
    known = Schedule.from_row(rows[0])
    if repeated and (yield sql.schedule_triggered(id=known.id, task_id=task_id)):
        return Inserted(task_id, known.queue, created=True), known.type
    slot_at = (yield sql.clock())[0][0]
    request = _request(known, task_id, payload=rows[0][PAYLOAD], slot=slot_at.astimezone(UTC).isoformat())
    inserted = yield from operations.enqueue(sql, request)
    yield sql.schedule_trigger(id=known.id, slot_at=slot_at, task_id=task_id if inserted.created else None)
    return inserted, known.type


def _request(known: Schedule, task_id: uuid.UUID, *, payload: str, slot: str) -> Request:
    """The task as schedule_fire.sql enqueues it. Raises ConfigurationError for options that were put in by hand and are none."""
    options = known.options
    try:
        return Request(
            id=task_id,
            queue=known.queue,
            type=known.type,
            priority=int(options.get("priority", 100)),
            payload=payload,
            delay_seconds=None,
            at=None,
            expires_seconds=None if "expires" not in options else float(options["expires"]),
            expires_at=None,
            unique_key=None if "unique_key" not in options else bytes.fromhex(options["unique_key"]),
            idempotency_key=None,
            idempotency_seconds=0.0,
            tags=tuple(options["tags"]) if isinstance(options.get("tags"), list) else None,
            headers=json.dumps({"schedule": known.name, "slot": slot, "trigger": "true"}),
            options=json.dumps(options["overrides"]) if "overrides" in options else None,
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"schedule {known.name!r} has options that make no sense: {error}") from error


def _locked(sql: Statements, name: Name) -> Operation[Schedule | None]:
    rows = yield sql.schedule_lock(app=name.app, name=name.name)
    return Schedule.from_row(rows[0]) if rows else None


def _found(sql: Statements, name: Name) -> Operation[Schedule]:
    known = yield from get(sql, name)
    if known is None:
        raise _missing(name)
    return known


def _change(sql: Statements, known: Schedule, wanted: Definition, placed: dict[str, Any]) -> Operation[Schedule]:
    _check_runtime(known)
    rows = yield sql.schedule_update(id=known.id, **wanted.columns(), **placed)
    return Schedule.from_row(rows[0])


def _check_runtime(known: Schedule) -> None:
    if known.source == "code":
        raise ConfigurationError(
            f"schedule {known.name!r} is declared in code: change it there, or give this one another name. Pausing and "
            "triggering work here"
        )


def _missing(name: Name) -> ScheduleNotFound:
    return ScheduleNotFound(f"no schedule of app {name.app!r} is called {name.name!r}; `schedules.list()` shows those there are")
