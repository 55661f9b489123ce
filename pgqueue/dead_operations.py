"""Dead tasks, as operations: read them, make them ready again, delete them for ever.

A batch is a transaction of its own, in the order of ids, and skips rows that others hold.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pgqueue import operations
from pgqueue.change_operations import LOCK_WAIT, key_holder, key_taken
from pgqueue.database import Operation
from pgqueue.errors import EnqueueConflict, TaskNotFound, WrongStatus
from pgqueue.filters import DeadFilter, Page
from pgqueue.operations import CONFLICT_TRIES_MAX, FIRST_ID, Inserted
from pgqueue.records import TaskPage, TaskRecord
from pgqueue.statements import Statements
from pgqueue.states import Status

BATCH = 1_000


class Batch(NamedTuple):
    """What one batch did. last_id: where the next goes on; None: nothing is left."""

    last_id: uuid.UUID | None
    found_count: int
    done_count: int


class Retried(NamedTuple):
    """A dead task that is ready again, and its type."""

    inserted: Inserted
    type: str


def get(sql: Statements, task_id: uuid.UUID) -> Operation[TaskRecord | None]:
    """None: no dead task has this id."""
    rows = yield sql.dead_list(ids=[task_id], limit=1)
    return TaskRecord.from_row(rows[0]) if rows else None


def list_dead(sql: Statements, wanted: DeadFilter, page: Page) -> Operation[TaskPage]:
    """One page. One row more than the limit is read, to know whether there is a next page."""
    parameters = yield from _parameters(sql, wanted)
    rows = yield sql.dead_list(**parameters, before=page.before, limit=page.limit + 1)
    records = tuple(TaskRecord.from_row(row) for row in rows[: page.limit])
    return TaskPage(records, str(records[-1].id) if len(rows) > page.limit else None)


def summary(sql: Statements, wanted: DeadFilter) -> Operation[tuple[int, timedelta | None]]:
    """How many there are, and for how long the oldest has been dead."""
    parameters = yield from _parameters(sql, wanted)
    count, oldest_age = (yield sql.dead_summary(**parameters))[0]
    return count, oldest_age


def retry(sql: Statements, task_id: uuid.UUID, *, repeated: bool = False) -> Operation[Retried]:
    """Make one ready again. Waits for its row and its key, not for long. Must run in one transaction.

    Raises KeyTaken, WrongStatus, TaskNotFound.
    """
    yield sql.bound_wait(wait=LOCK_WAIT)
    for _ in range(CONFLICT_TRIES_MAX):
        held = yield sql.dead_hold(id=task_id)
        if not held:
            record = yield from operations.get(sql, task_id)
            if record is None:
                raise TaskNotFound(f"task {task_id} is not stored: it was purged, or never committed")
            if repeated and record.lineage.get("retries"):
                return Retried(Inserted(task_id, record.queue, created=True), record.type)
            if record.status is Status.DEAD:
                continue  # it died between the two looks
            raise WrongStatus(f"{record.type} {task_id} cannot be retried: it is {record.status}, not dead", status=record.status)
        queue, type_name, key = held[0]
        done = yield from _retry_batch(sql, {"ids": [task_id], "queue": queue}, FIRST_ID)
        if done.done_count:
            return Retried(Inserted(task_id, queue, created=True), type_name)
        holder = yield from key_holder(sql, queue, key)
        if holder is not None:
            raise key_taken(task_id, queue, holder)
    raise EnqueueConflict(f"the holder of the unique key of task {task_id} came and went: retry again")


def retry_batch(sql: Statements, wanted: DeadFilter, after: uuid.UUID, now: datetime) -> Operation[Batch]:
    """Make the next of those that were dead at `now` ready again. Waits for keys, not for long. Must run in one transaction."""
    yield sql.bound_wait(wait=LOCK_WAIT)
    return (yield from _retry_batch(sql, _bounded(wanted, now), after))


def _retry_batch(sql: Statements, parameters: dict[str, Any], after: uuid.UUID) -> Operation[Batch]:
    return Batch(*(yield sql.dead_retry(**parameters, after=after, limit=BATCH, channel=sql.schema))[0])


def purge_batch(sql: Statements, wanted: DeadFilter, after: uuid.UUID, now: datetime) -> Operation[Batch]:
    """Delete the next of those that were dead at `now`."""
    last_id, count = (yield sql.dead_purge(**_bounded(wanted, now), after=after, limit=BATCH))[0]
    return Batch(last_id, count, count)


def clock(sql: Statements) -> Operation[datetime]:
    """The database's clock."""
    now: datetime = (yield sql.clock())[0][0]
    return now


def _parameters(sql: Statements, wanted: DeadFilter) -> Operation[dict[str, Any]]:
    return wanted.parameters((yield from clock(sql)))


def _bounded(wanted: DeadFilter, now: datetime) -> dict[str, Any]:
    parameters = wanted.parameters(now)
    return {**parameters, "dead_before": parameters["dead_before"] or now}
