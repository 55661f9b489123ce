"""Reading what tasks logged: an operation of both clients. No I/O here, as in operations.py."""

from __future__ import annotations

import uuid

from pgqueue.database import Operation
from pgqueue.journal import level_name
from pgqueue.records import LogRecord
from pgqueue.statements import Statements


def logs(sql: Statements, task_id: uuid.UUID, *, after: int | None, limit: int) -> Operation[list[LogRecord]]:
    """Lines of a task, oldest first: those that follow `after`, or the last ones."""
    rows = yield sql.logs(id=task_id, after=after, limit=limit)
    return [
        LogRecord(id, attempt, logged_at, level_name(level), message, progress)
        for id, attempt, logged_at, level, message, progress in rows
    ]
