"""The operations of `queue.types` (catalogue.py), as generators: see operations.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pgqueue.database import Operation
from pgqueue.errors import UnknownTask
from pgqueue.records import TypeRecord
from pgqueue.statements import Statements

HINT_MAX = 20
"""Names that the error for an unknown one lists."""


def list_types(sql: Statements) -> Operation[list[TypeRecord]]:
    """All that runners and schedulers have registered, by name."""
    rows = yield sql.type_list()
    return [TypeRecord.from_row(row) for row in rows]


def get_type(sql: Statements, name: str) -> Operation[TypeRecord]:
    """Raises UnknownTask."""
    rows = yield sql.type_list(name=name)
    if not rows:
        raise UnknownTask(_unknown(name, [row[0] for row in (yield sql.type_list())]))
    return TypeRecord.from_row(rows[0])


def update_type(sql: Statements, name: str, overrides: Mapping[str, Any]) -> Operation[TypeRecord]:
    """Set these overrides, leave the others. Raises UnknownTask."""
    yield sql.type_change(name=name, merged=json.dumps(dict(overrides)))
    return (yield from get_type(sql, name))


def reset_type(sql: Statements, name: str, removed: Sequence[str]) -> Operation[TypeRecord]:
    """Take these overrides back, or all where none is named. Raises UnknownTask."""
    yield sql.type_change(name=name, removed=list(removed), clears=not removed)
    return (yield from get_type(sql, name))


def switch_type(sql: Statements, name: str, *, disables: bool) -> Operation[TypeRecord]:
    """Raises UnknownTask."""
    yield sql.type_change(name=name, disables=disables)
    return (yield from get_type(sql, name))


def _unknown(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3)
    if close:
        hint = f"Did you mean {' or '.join(close)}?"
    elif known:
        hint = f"Registered are {', '.join(known[:HINT_MAX])}{', …' if len(known) > HINT_MAX else ''}"
    else:
        hint = "No type is registered yet"
    return f"no runner of this database has registered a task type {name!r}. {hint}; it is known once a runner with it started"
