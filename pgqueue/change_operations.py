"""Changes to one task by hand, as operations: update, delete, restore, purge, mark, requeue. Each must run in one transaction.

A change waits for the row, since a lane that runs the task holds it, but not for long (`bound_wait.sql`). Each names the status
that it changes, so that a claim which comes first wins. `repeated`: an attempt whose commit is unknown may have done it already.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from pgqueue import operations
from pgqueue.database import Operation
from pgqueue.edits import Edit, Mark, Original, encode_result, encode_values, followed_key
from pgqueue.errors import (
    ConfigurationError,
    EnqueueConflict,
    KeyTaken,
    TaskBusy,
    TaskFinished,
    TaskNotFound,
    WrongStatus,
)
from pgqueue.operations import CONFLICT_TRIES_MAX, Inserted
from pgqueue.records import TaskRecord
from pgqueue.registry import Registry
from pgqueue.requests import Request
from pgqueue.statements import Statements
from pgqueue.states import UNFINISHED, WAITING, Status

LOCK_WAIT = "5s"
"""How long a change waits for a row or a key: a lane closes after its patience, unless its loop is blocked."""


def update(
    sql: Statements, task_id: uuid.UUID, edit: Edit, registry: Registry, *, limit: int, now: datetime | None = None
) -> Operation[TaskRecord]:
    """Change a waiting task, and say how it stands then. Doing it twice is doing it once.

    Raises TaskBusy, TaskFinished, TaskNotFound, KeyTaken, and what is wrong with the payload.
    """
    yield sql.bound_wait(wait=LOCK_WAIT)
    for _ in range(CONFLICT_TRIES_MAX):
        queue = (yield from _found(sql, task_id, WAITING, "updated")).queue
        held = yield sql.hold(queue=queue, id=task_id, now=now)
        if held:
            yield from _change(sql, task_id, queue, held[0], edit, registry, limit=limit)
            return (yield from _record(sql, task_id))
    raise _restless(task_id, "updated")


def _change(
    sql: Statements, task_id: uuid.UUID, queue: str, held: tuple[Any, ...], edit: Edit, registry: Registry, *, limit: int
) -> Operation[None]:
    type_name, before, key, expires_at, now = held
    text = None if edit.values is None else encode_values(registry, type_name, edit.values, limit=limit)
    final_key = key if text is None else followed_key(registry, type_name, key, before=before, after=text)
    maturity_at = edit.maturity_at(now)
    if maturity_at is not None and expires_at is not None and maturity_at >= expires_at:
        raise ConfigurationError(
            f"task {task_id} expires at {expires_at.isoformat()}, before it may start then: choose an earlier at="
        )
    moves = edit.queue not in (None, queue)
    if final_key != key and not moves:
        yield from _refuse_taken(sql, task_id, queue, final_key)
    yield sql.change(
        queue=queue,
        id=task_id,
        priority=edit.priority,
        payload=text,
        sets_tags=edit.tags is not None,
        tags=list(edit.tags) if edit.tags else None,
        unique_key=key if moves else final_key,
        maturity_at=maturity_at,
        now=now,
        channel=None if moves else sql.schema,
    )
    if moves:
        assert edit.queue is not None
        yield from _move(sql, task_id, queue, edit.queue, final_key)


def _move(sql: Statements, task_id: uuid.UUID, queue: str, to_queue: str, key: bytes | None) -> Operation[None]:
    for _ in range(CONFLICT_TRIES_MAX):
        if (yield sql.move(queue=queue, id=task_id, to_queue=to_queue, unique_key=key, channel=sql.schema)):
            return
        yield from _refuse_taken(sql, task_id, to_queue, key)
    raise _restless(task_id, f"moved to queue {to_queue!r}")


def delete(sql: Statements, task_id: uuid.UUID, reason: str | None, *, repeated: bool = False) -> Operation[None]:
    """Move a waiting task to history as deleted. Raises TaskBusy, TaskFinished, TaskNotFound."""
    yield sql.bound_wait(wait=LOCK_WAIT)
    for _ in range(CONFLICT_TRIES_MAX):
        record = yield from _found(sql, task_id, WAITING | ({Status.DELETED} if repeated else set()), "deleted")
        if record.status is Status.DELETED or (yield sql.delete(queue=record.queue, id=task_id, reason=reason)):
            return
    raise _restless(task_id, "deleted")


def purge(sql: Statements, task_id: uuid.UUID, *, repeated: bool = False) -> Operation[None]:
    """Remove every trace of a task that does not run. Raises TaskBusy, TaskNotFound."""
    yield sql.bound_wait(wait=LOCK_WAIT)
    for _ in range(CONFLICT_TRIES_MAX):
        if repeated and (yield from operations.get(sql, task_id)) is None:
            return
        record = yield from _found(sql, task_id, frozenset(Status) - {Status.RUNNING}, "purged")
        if (yield sql.purge(queue=record.queue, id=task_id)):
            return
    raise _restless(task_id, "purged")


def restore(sql: Statements, task_id: uuid.UUID, *, repeated: bool = False, now: datetime | None = None) -> Operation[TaskRecord]:
    """Bring a deleted task back as it was. Raises KeyTaken, WrongStatus, TaskNotFound."""
    yield sql.bound_wait(wait=LOCK_WAIT)
    for _ in range(CONFLICT_TRIES_MAX):
        record = yield from _record(sql, task_id)
        if repeated and "restored_at" in record.lineage:
            return record
        if record.status is not Status.DELETED:
            raise WrongStatus(f"{_named(record)} cannot be restored: it is {record.status}, not deleted", status=record.status)
        held = yield sql.hold_deleted(queue=record.queue, id=task_id)
        if not held:
            continue
        if (yield sql.restore(queue=record.queue, id=task_id, channel=sql.schema, now=now)):
            return (yield from _record(sql, task_id))
        yield from _refuse_taken(sql, task_id, record.queue, held[0][0])
    raise _restless(task_id, "restored")


def mark(
    sql: Statements,
    task_id: uuid.UUID,
    mark: Mark,
    result: Any,
    reason: str,
    registry: Registry,
    *,
    limit: int,
    repeated: bool = False,
) -> Operation[None]:
    """End a waiting or running task by hand; a running attempt finds its lease lost.

    Raises TaskFinished, TaskNotFound, PayloadError.
    """
    yield sql.bound_wait(wait=LOCK_WAIT)
    for _ in range(CONFLICT_TRIES_MAX):
        record = yield from _record(sql, task_id)
        if repeated and "marked" in record.lineage and record.status not in UNFINISHED:
            return
        if record.status not in UNFINISHED:
            raise _refusal(record, f"marked {mark}")
        if mark == "failed":
            rows = yield sql.mark_dead(queue=record.queue, id=task_id, reason=reason)
        else:
            text = encode_result(registry, record.type, result, limit=limit)
            rows = yield sql.mark_succeeded(queue=record.queue, id=task_id, result=text, reason=reason)
        if rows:
            return
    raise _restless(task_id, f"marked {mark}")


def original(sql: Statements, task_id: uuid.UUID) -> Operation[Original]:
    """What a copy of a task that has ended is made of. Raises WrongStatus, TaskNotFound."""
    rows = yield sql.original(id=task_id)
    if not rows:
        record = yield from _record(sql, task_id)
        raise WrongStatus(
            f"{_named(record)} has not ended ({record.status}), so there is nothing to requeue: enqueue another",
            status=record.status,
        )
    return Original(*rows[0])


def requeue(
    sql: Statements, request: Request, original_id: uuid.UUID, original_queue: str, *, repeated: bool = False
) -> Operation[Inserted]:
    """Insert a copy, and note on both tasks where it comes from. As operations.enqueue; raises what that raises."""
    inserted = yield from operations.enqueue(sql, request, repeated=repeated)
    if inserted.created:
        yield sql.link_copy(queue=inserted.queue, id=inserted.id, original_queue=original_queue, original_id=original_id)
    return inserted


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _record(sql: Statements, task_id: uuid.UUID) -> Operation[TaskRecord]:
    record = yield from operations.get(sql, task_id)
    if record is None:
        raise TaskNotFound(f"task {task_id} is not stored")
    return record


def _found(sql: Statements, task_id: uuid.UUID, allowed: frozenset[Status], what: str) -> Operation[TaskRecord]:
    """The task where it stands now, if what is asked for can be done there."""
    record = yield from _record(sql, task_id)
    if record.status not in allowed:
        raise _refusal(record, what)
    return record


def _refusal(record: TaskRecord, what: str) -> WrongStatus:
    if record.status is Status.RUNNING:
        return TaskBusy(f"{_named(record)} cannot be {what}: a runner has it; cancel it, or mark it", status=record.status)
    return TaskFinished(f"{_named(record)} cannot be {what}: it has ended ({record.status})", status=record.status)


def _refuse_taken(sql: Statements, task_id: uuid.UUID, queue: str, key: bytes | None) -> Operation[None]:
    """Raise KeyTaken if an unfinished task holds this key; else whoever did has gone, and it may be tried again."""
    holder = yield from key_holder(sql, queue, key)
    if holder is not None:
        raise key_taken(task_id, queue, holder)


def key_holder(sql: Statements, queue: str, key: bytes | None) -> Operation[uuid.UUID | None]:
    """The unfinished task that holds a unique key."""
    rows = yield sql.unique_holder(queues=[queue], unique_keys=[key])
    return rows[0][1] if rows else None


def key_taken(task_id: uuid.UUID, queue: str, holder: uuid.UUID) -> KeyTaken:
    return KeyTaken(
        f"the unique key of task {task_id} is held in queue {queue!r} by the unfinished task {holder}: "
        "let that one end, or cancel it",
        holder=holder,
    )


def _restless(task_id: uuid.UUID, what: str) -> EnqueueConflict:
    return EnqueueConflict(f"task {task_id} moved {CONFLICT_TRIES_MAX} times while it was to be {what}: try again")


def _named(record: TaskRecord) -> str:
    return f"{record.type} {record.id}"
