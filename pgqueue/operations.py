"""The client's operations, as generators that yield `Call`s: no I/O here, so that `Queue` and `AsyncQueue` share every line.

Each says whether it must run in one transaction; `run` and `arun` (database.py) drive it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pgqueue.collector import collector_paused
from pgqueue.copying import array_literal, chunks
from pgqueue.database import Operation
from pgqueue.errors import EnqueueConflict, TaskNotFound
from pgqueue.filters import Filter, Page
from pgqueue.records import AttemptRecord, QueueRecord, TaskPage, TaskRecord, loads
from pgqueue.requests import QueueOptions, Request
from pgqueue.statements import Copy, Statements
from pgqueue.states import UNFINISHED, Status

CONFLICT_TRIES_MAX = 10
"""How often an insert and a look for the holder are repeated when the holder keeps coming and going."""
COPY_MIN = 300
"""From so many tasks on COPY is faster than INSERT … unnest."""
BATCH_MAX = 5_000
"""Rows that one INSERT … unnest carries at most."""
CANCEL_BATCH = 1_000
FIRST_ID = uuid.UUID(int=0)


class Inserted(NamedTuple):
    """What became of a request: the task that stands for it, and whether this request created it.

    A tuple, as there may be hundreds of thousands of them.
    """

    id: uuid.UUID
    queue: str
    created: bool


class AlreadyEnqueued(Exception):
    """A signal to roll back, never seen by users: an enqueue repeated by its ids was committed the first time."""


def is_atomic(request: Request, *, repeated: bool = False) -> bool:
    """Whether inserting it takes more than one statement, so that it needs a transaction."""
    return repeated or request.idempotency_key is not None


def is_repeatable(requests: Sequence[Request]) -> bool:
    """Whether many can be repeated by their ids. With keys they cannot: whose task stood for a duplicate may be gone by then."""
    return all(request.unique_key is None and request.idempotency_key is None for request in requests)


def enqueue(sql: Statements, request: Request, *, repeated: bool = False, now: datetime | None = None) -> Operation[Inserted]:
    """Insert one task, or find the one that holds its key.

    `repeated`: this very id may have been inserted before, by an attempt whose commit is unknown; then it must run in a
    transaction. Raises EnqueueConflict.
    """
    if request.idempotency_key is not None:
        first = yield from _take_idempotency_key(sql, request, now)
        if first is not None:
            return first
    for _ in range(CONFLICT_TRIES_MAX):
        rows = yield sql.enqueue(**_parameters(request), channel=_channel(sql, request), now=now)
        # In a statement of its own: it must see what the insert has waited for.
        if repeated and (yield sql.ended(ids=[request.id])):
            raise AlreadyEnqueued
        if rows:
            return Inserted(request.id, request.queue, created=True)
        holder = yield from _find_holder(sql, request)
        if holder is not None:
            if request.idempotency_key is not None:
                yield sql.point_key(queue=request.queue, key=request.idempotency_key, task_id=holder.id)
            return holder
    raise _conflict(request, "the holder of the unique key")


def _conflict(request: Request, what: str) -> EnqueueConflict:
    return EnqueueConflict(f"{what} of {request.type!r} came and went {CONFLICT_TRIES_MAX} times: enqueue again")


def _take_idempotency_key(sql: Statements, request: Request, now: datetime | None) -> Operation[Inserted | None]:
    """None: the key is ours now, so insert. Else the task that has it; our own id, when this is a repetition."""
    for _ in range(CONFLICT_TRIES_MAX):
        mine = yield sql.remember_key(
            queue=request.queue,
            key=request.idempotency_key,
            task_id=request.id,
            task_queue=request.queue,
            retention=request.idempotency_seconds,
            now=now,
        )
        if mine:
            return None
        rows = yield sql.key_holder(queue=request.queue, key=request.idempotency_key)
        if rows:
            task_id, queue = rows[0]
            return Inserted(task_id, queue, created=task_id == request.id)
    raise _conflict(request, "the idempotency key")


def _find_holder(sql: Statements, request: Request) -> Operation[Inserted | None]:
    """The unfinished task that kept ours out: the holder of its unique key, or an earlier insert of its own id."""
    if request.unique_key is not None:
        rows = yield sql.unique_holder(queues=[request.queue], unique_keys=[request.unique_key])
        if rows:
            return Inserted(rows[0][1], request.queue, created=rows[0][1] == request.id)
    rows = yield sql.outcome(queue=request.queue, id=request.id)
    return Inserted(request.id, request.queue, created=True) if rows else None


def _channel(sql: Statements, request: Request) -> str | None:
    """Where sleeping runners are told of it: the channel called like the schema. None: nowhere."""
    return sql.schema if request.notify else None


def _parameters(request: Request) -> dict[str, Any]:
    return {
        "id": request.id,
        "queue": request.queue,
        "type": request.type,
        "priority": request.priority,
        "payload": request.payload,
        "delay": request.delay_seconds,
        "at": request.at,
        "expires": request.expires_seconds,
        "expires_at": request.expires_at,
        "unique_key": request.unique_key,
        "tags": None if request.tags is None else list(request.tags),
        "headers": request.headers,
        "options": request.options,
        "keeps_priority": request.keeps_priority,
    }


def enqueue_many(
    sql: Statements, requests: Sequence[Request], *, repeated: bool = False, now: datetime | None = None
) -> Operation[list[Inserted]]:
    """Insert all of them or none, in their order. Must run in one transaction. Raises EnqueueConflict.

    `repeated`: these very ids may have been inserted before; only for requests that `is_repeatable`.
    """
    if repeated:
        yield from _insert_again(sql, requests, now)
        return [Inserted(request.id, request.queue, created=True) for request in requests]
    if len(requests) >= COPY_MIN and is_repeatable(requests):
        yield from _copy(sql, requests, now)
        with collector_paused():
            return [Inserted(request.id, request.queue, True) for request in requests]
    inserted: dict[uuid.UUID, Inserted] = {}
    yield from _take_idempotency_keys(sql, requests, inserted, now)
    fresh = [request for request in requests if request.id not in inserted]
    yield from _insert_plain(sql, [request for request in fresh if request.unique_key is None], inserted, now)
    yield from _insert_unique(sql, [request for request in fresh if request.unique_key is not None], inserted, now)
    for request in fresh:
        if request.idempotency_key is not None and not inserted[request.id].created:
            yield sql.point_key(queue=request.queue, key=request.idempotency_key, task_id=inserted[request.id].id)
    return [_final(inserted, request) for request in requests]


def _take_idempotency_keys(
    sql: Statements, requests: Sequence[Request], inserted: dict[uuid.UUID, Inserted], now: datetime | None
) -> Operation[None]:
    """Take the keys in order, and all before any unique key, so that two bulk enqueues with the same keys cannot deadlock."""
    with_key = [request for request in requests if request.idempotency_key is not None]
    for request in sorted(with_key, key=lambda request: (request.queue, request.idempotency_key or b"")):
        first = yield from _take_idempotency_key(sql, request, now)
        if first is not None:
            inserted[request.id] = first


def _final(inserted: dict[uuid.UUID, Inserted], request: Request) -> Inserted:
    """What stands for a request: where its idempotency key names another of the same call, what stands for that one."""
    found = inserted[request.id]
    other = inserted.get(found.id)
    return found if found.created or other is None else other._replace(created=False)


def _insert_plain(
    sql: Statements, requests: Sequence[Request], inserted: dict[uuid.UUID, Inserted], now: datetime | None
) -> Operation[None]:
    for start in range(0, len(requests), BATCH_MAX):
        batch = requests[start : start + BATCH_MAX]
        yield sql.enqueue_many(**_arrays(batch), channel=_channel(sql, batch[0]), now=now)
        inserted.update((request.id, Inserted(request.id, request.queue, created=True)) for request in batch)


def _insert_again(sql: Statements, requests: Sequence[Request], now: datetime | None) -> Operation[None]:
    """Insert what an attempt of unknown commit had in hand: all of it was committed or nothing. Raises AlreadyEnqueued."""
    for start in range(0, len(requests), BATCH_MAX):
        batch = requests[start : start + BATCH_MAX]
        created = yield sql.enqueue_many(**_arrays(batch), channel=_channel(sql, batch[0]), now=now)
        if len(created) < len(batch) or (yield sql.ended(ids=[request.id for request in batch])):
            raise AlreadyEnqueued


def _insert_unique(
    sql: Statements, requests: Sequence[Request], inserted: dict[uuid.UUID, Inserted], now: datetime | None
) -> Operation[None]:
    """Insert in the order of the keys, and find the holders of those that were taken, until every request has its task."""
    waiting = sorted(requests, key=lambda request: (request.queue, request.unique_key or b""))
    for _ in range(CONFLICT_TRIES_MAX):
        for start in range(0, len(waiting), BATCH_MAX):
            batch = waiting[start : start + BATCH_MAX]
            created = {row[0] for row in (yield sql.enqueue_many(**_arrays(batch), channel=_channel(sql, batch[0]), now=now))}
            inserted.update((one.id, Inserted(one.id, one.queue, created=True)) for one in batch if one.id in created)
        waiting = [request for request in waiting if request.id not in inserted]
        if not waiting:
            return
        holders = yield sql.unique_holder(
            queues=[request.queue for request in waiting], unique_keys=[request.unique_key for request in waiting]
        )
        for position, holder_id in holders:
            request = waiting[position]
            inserted[request.id] = Inserted(holder_id, request.queue, created=False)
        waiting = [request for request in waiting if request.id not in inserted]
        if not waiting:
            return
    raise EnqueueConflict(f"the holders of {len(waiting)} unique keys came and went {CONFLICT_TRIES_MAX} times: enqueue again")


def _copy(sql: Statements, requests: Sequence[Request], now: datetime | None) -> Operation[None]:
    database_now, overridden = (yield sql.copy_terms())[0]
    firsts: dict[str, datetime] = {}
    yield Copy(sql.copy_tasks, chunks(requests, now or database_now, firsts, overridden=loads(overridden) or {}))
    if requests[0].notify:
        yield sql.notify(channel=sql.schema, queues=list(firsts), maturity_ats=list(firsts.values()))


def _arrays(requests: Sequence[Request]) -> dict[str, Any]:
    return {
        "ids": [request.id for request in requests],
        "queues": [request.queue for request in requests],
        "types": [request.type for request in requests],
        "priorities": [request.priority for request in requests],
        "payloads": [request.payload for request in requests],
        "delays": [request.delay_seconds for request in requests],
        "ats": [request.at for request in requests],
        "expires": [request.expires_seconds for request in requests],
        "expires_ats": [request.expires_at for request in requests],
        "unique_keys": [request.unique_key for request in requests],
        "tags": [None if request.tags is None else array_literal(request.tags) for request in requests],
        "headers": [request.headers for request in requests],
        "options": [request.options for request in requests],
        "keep_priorities": [request.keeps_priority for request in requests],
    }


# ── reading and changing ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a task stands, with its result (JSON text) or the reason it has none."""

    status: Status
    result: str | None
    reason: str | None


def standing(sql: Statements, queue: str, task_id: uuid.UUID) -> Operation[Standing | None]:
    """None: no such task is stored, or its insert has not committed."""
    rows = yield sql.outcome(queue=queue, id=task_id)
    if not rows:
        return None
    status, result, reason = rows[0]
    return Standing(Status(status), result, reason)


def cancel(sql: Statements, queue: str, task_id: uuid.UUID, reason: str | None, *, repeated: bool = False) -> Operation[bool]:
    """True: it is cancelled, or its runner has been asked to. False: it has ended. Raises TaskNotFound.

    `repeated`: an attempt whose commit is unknown may have cancelled it, so finding it cancelled is True as well.
    """
    for _ in range(CONFLICT_TRIES_MAX):
        if (yield sql.cancel(queue=queue, id=task_id, reason=reason)):
            return True
        rows = yield sql.outcome(queue=queue, id=task_id)
        if not rows:
            raise TaskNotFound(f"task {task_id} is not stored in queue {queue!r}")
        status = Status(rows[0][0])
        if status not in UNFINISHED:
            return repeated and status is Status.CANCELLED
    raise EnqueueConflict(f"task {task_id} moved {CONFLICT_TRIES_MAX} times while it was to be cancelled: cancel again")


def cancel_all(sql: Statements, wanted: Filter, reason: str | None) -> Operation[int]:
    """Cancel what waits and ask for what runs, in batches of 1,000, each a transaction of its own. Returns how many."""
    started_at = (yield sql.clock())[0][0]
    names = [wanted.queue] if wanted.queue is not None else [row[0] for row in (yield sql.queues())]
    cancelled = 0
    for statement in (sql.cancel_all, sql.cancel_running):
        for queue in names:
            parameters = {**wanted.parameters(), "queue": queue, "created_before": started_at, "reason": reason}
            after: uuid.UUID | None = FIRST_ID
            while after is not None:
                after, count = (yield statement(**parameters, after=after, limit=CANCEL_BATCH))[0]
                cancelled += count
    return cancelled


def get(sql: Statements, task_id: uuid.UUID) -> Operation[TaskRecord | None]:
    rows = yield sql.get(id=task_id)
    return TaskRecord.from_row(rows[0]) if rows else None


def attempts(sql: Statements, task_id: uuid.UUID) -> Operation[list[AttemptRecord]]:
    rows = yield sql.attempts(id=task_id)
    return [AttemptRecord(*row) for row in rows]


def list_tasks(sql: Statements, page: Page) -> Operation[TaskPage]:
    """One page. One row more than the limit is read, to know whether there is a next page."""
    parameters = {**page.wanted.parameters(), "created_after": page.created_after, "before": page.before}
    rows = yield sql.list(**parameters, limit=page.limit + 1)
    records = tuple(TaskRecord.from_row(row) for row in rows[: page.limit])
    return TaskPage(records, str(records[-1].id) if len(rows) > page.limit else None)


def depth(sql: Statements, queue: str | None) -> Operation[int]:
    rows = yield sql.depth(queue=queue)
    result: int = rows[0][0]
    return result


def counts(sql: Statements, queue: str | None) -> Operation[dict[str, dict[Status, int]]]:
    rows = yield sql.counts(queue=queue)
    result: dict[str, dict[Status, int]] = {}
    for name, status, count in rows:
        result.setdefault(name, {})[Status(status)] = count
    return result


# ── queues ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def queues(sql: Statements) -> Operation[list[QueueRecord]]:
    """Those that hold unfinished tasks and those that have settings, by name."""
    rows = yield sql.queues()
    return [QueueRecord(*row) for row in rows]


def configure(sql: Statements, queue: str, options: QueueOptions) -> Operation[QueueRecord]:
    """Set what is given, leave the rest, and say how the queue is set now."""
    rows = yield sql.configure(queue=queue, sets_aging="aging" in options, aging=options.get("aging"))
    return QueueRecord(*rows[0])
