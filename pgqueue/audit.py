"""Who did what: written down in the transaction of the change, and read again.

How an operation adds itself. It takes the client's actor, `by: Actor | None`, and puts `audited` around the statement that makes
the change. One line, `rows = yield sql.pause(queue=queue)`, becomes

    rows = yield from audited(sql, by, "pause", f"queue:{queue}", sql.pause(queue=queue))

and the clients, blocking and not, pass `self._actor`. Nothing is written down for the engine, which passes none, nor where the
change gives no rows: it did not happen. Enqueues are not written down either: they are too many, and a task says itself when it
came.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pgqueue.actors import Actor, AuditFilter, split_object
from pgqueue.database import Atomic, Operation, Rows
from pgqueue.records import AuditPage, AuditRecord
from pgqueue.statements import Call, Statements

Details = Mapping[str, Any] | Callable[[Rows], Mapping[str, Any] | None] | None


def audited(
    sql: Statements,
    by: Actor | None,
    action: str,
    object: str,
    change: Call | Operation[Rows],
    details: Details = None,
    *,
    id: uuid.UUID | None = None,
) -> Operation[Rows]:
    """Make a change and write down who made it: both commit together or not at all. Gives the rows of the change.

    by: None writes nothing down. action: a verb, as the client's method is called. object: `kind:name` of `actors.KINDS`; a task
    by its id, `task:*` for many. change: a statement, or an operation that gives its rows; without rows nothing is written down.
    details: what else to know, small and fit for JSON (times and ids become text, lengths of time seconds); or a function of the
    rows, of which there is one at least, that makes them; where it gives None nothing is written down.
    id: for a change in batches, each with its own transaction: one id for all of them makes one line, which has the last details.
    """
    if by is None:
        return (yield from _made(change))
    return (yield Atomic(_audited(sql, by, action, object, change, details, id)))


def _made(change: Call | Operation[Rows]) -> Operation[Rows]:
    if isinstance(change, Call):
        return (yield change)
    return (yield from change)


def _audited(
    sql: Statements,
    by: Actor,
    action: str,
    object: str,
    change: Call | Operation[Rows],
    details: Details,
    id: uuid.UUID | None,
) -> Operation[Rows]:
    kind, name = split_object(object)
    rows = yield from _made(change)
    if not rows:
        return rows
    said = details(rows) if callable(details) else details or {}
    if said is not None:
        yield sql.audit(
            id=id,
            actor=by.name,
            door=by.door.value,
            action=action,
            kind=kind,
            name=name,
            details=json.dumps(said, ensure_ascii=False, allow_nan=False, default=_as_json),
        )
    return rows


def _as_json(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def list_audit(sql: Statements, wanted: AuditFilter) -> Operation[AuditPage]:
    """One page. One row more than the limit is read, to know whether there is a next page."""
    rows = yield sql.audit_list(**wanted.parameters(), limit=wanted.limit + 1)
    records = tuple(AuditRecord.from_row(row) for row in rows[: wanted.limit])
    return AuditPage(records, str(records[-1].id) if len(rows) > wanted.limit else None)
