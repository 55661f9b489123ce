"""Who asks, through which door, and what for: the words of the audit, checked. Ground: pure.

`Actor` is what a client hands to its operations; `audit.py` writes it down.
"""

from __future__ import annotations

import getpass
import os
import platform
import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from pgqueue.errors import ConfigurationError
from pgqueue.filters import PAGE_MAX, check_id
from pgqueue.requests import NAME_MAX, check_instant, check_name

KINDS = ("task", "queue", "schedule", "type", "runner", "lock")
"""What may be done something to. An object is written `kind:name`, a task by its id."""
MANY = "*"
"""The name where many were meant: `task:*`."""


class Door(StrEnum):
    """The way by which somebody came in."""

    CLI = "cli"
    API = "api"
    DASHBOARD = "dashboard"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, by which door."""

    name: str
    door: Door


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which lines of the audit are meant; None means any. `before` is the id of the line where the page before ended."""

    kind: str | None
    name: str | None
    actor: str | None
    door: Door | None
    action: str | None
    since: datetime | None
    before: uuid.UUID | None
    limit: int

    def parameters(self) -> dict[str, Any]:
        """As the statement names them, but for the limit."""
        values = {name: getattr(self, name) for name in ("kind", "name", "actor", "action", "since", "before")}
        return {**values, "door": None if self.door is None else self.door.value}


def check_door(door: object) -> Door:
    """Raises ConfigurationError."""
    try:
        return Door(door)  # type: ignore[arg-type]  # refused below
    except ValueError as error:
        raise ConfigurationError(f"a door is one of {', '.join(Door)}, not {door!r:.60}") from error


def split_object(object: str) -> tuple[str, str | None]:
    """Kind and name of `queue:mail`; no name of `queue`. Raises ConfigurationError."""
    if not isinstance(object, str):
        raise ConfigurationError(f'object takes a text such as "queue:mail" or "queue", not {object!r:.60}')
    kind, colon, name = object.partition(":")
    if kind not in KINDS:
        raise ConfigurationError(f"object takes a kind, or kind:name, of the kinds {', '.join(KINDS)}; not {object!r:.60}")
    return kind, check_name(name, f"object={kind}:") if colon else None


def check_audit_filter(
    *,
    object: str | None,
    actor: str | None,
    door: Door | str | None,
    action: str | None,
    since: datetime | None,
    limit: object,
    cursor: str | None,
) -> AuditFilter:
    """Raises ConfigurationError."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_MAX:
        raise ConfigurationError(f"limit takes 1 to {PAGE_MAX}, not {limit!r}")
    kind, name = (None, None) if object is None else split_object(object)
    return AuditFilter(
        kind=kind,
        name=name,
        actor=None if actor is None else check_name(actor, "actor"),
        door=None if door is None else check_door(door),
        action=None if action is None else check_name(action, "action"),
        since=None if since is None else check_instant(since, "since"),
        before=None if cursor is None else _cursor(cursor),
        limit=limit,
    )


def _cursor(cursor: str) -> uuid.UUID:
    try:
        return check_id(cursor)
    except ConfigurationError as error:
        raise ConfigurationError(f"cursor takes that of the page before, not {cursor!r:.60}") from error


@cache
def default_name() -> str:
    """`user@host`, of what this process knows of itself; each part without what PostgreSQL or a terminal would choke on."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no name for this number, as in many a container
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{_printable(user) or 'unknown'}@{_printable(platform.node()) or 'unknown'}"[:NAME_MAX]


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())
