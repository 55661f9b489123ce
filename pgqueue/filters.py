"""Which tasks a reader or a bulk change means: checked before anything is sent. Ground: pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from typing_extensions import TypedDict

from pgqueue.errors import ConfigurationError
from pgqueue.registry import Registry
from pgqueue.requests import INSTANT_MIN, REASON_MAX, check_delay, check_instant, check_name, check_tags, check_text
from pgqueue.states import UNFINISHED, Status

PAGE_MAX = 1_000
EARLIEST = datetime(INSTANT_MIN, 1, 1, tzinfo=UTC)
IDS_MAX = 10_000
"""Ids that one call names at most."""
LINE_ID_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks are meant; None means any."""

    statuses: tuple[Status, ...] | None = None
    queue: str | None = None
    type: str | None = None
    tags: tuple[str, ...] | None = None

    def parameters(self) -> dict[str, Any]:
        """As the statements name them."""
        return {
            "statuses": None if self.statuses is None else [status.value for status in self.statuses],
            "queue": self.queue,
            "type": self.type,
            "tags": None if self.tags is None else list(self.tags),
        }


class DeadOptions(TypedDict, total=False):
    """By what dead tasks are chosen. older_than: dead for so long at least."""

    type: str | None
    queue: str | None
    tags: Sequence[str] | None
    older_than: timedelta | None


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead tasks are meant; None means any. older_seconds: dead for so long at least."""

    queue: str | None = None
    type: str | None = None
    tags: tuple[str, ...] | None = None
    ids: tuple[uuid.UUID, ...] | None = None
    older_seconds: float | None = None

    def parameters(self, now: datetime) -> dict[str, Any]:
        """As the statements name them; `now` is the database's clock."""
        dead_before = None
        if self.older_seconds is not None:
            dead_before = now - timedelta(seconds=min(self.older_seconds, (now - EARLIEST).total_seconds()))
        return {
            "queue": self.queue,
            "type": self.type,
            "tags": None if self.tags is None else list(self.tags),
            "ids": None if self.ids is None else list(self.ids),
            "dead_before": dead_before,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of the tasks that match: those with ids below `before`, `limit` of them."""

    wanted: Filter
    created_after: datetime | None
    limit: int
    before: uuid.UUID | None


def check_filter(
    registry: Registry,
    *,
    status: Status | str | Iterable[Status | str] | None,
    type: str | None,
    queue: str | None,
    tags: Sequence[str] | None,
) -> Filter:
    """A type's name is made canonical where the program knows it. Raises ConfigurationError."""
    return Filter(
        statuses=None if status is None else _statuses(status),
        queue=check_queue(queue),
        type=None if type is None else _canonical(registry, type),
        tags=None if tags is None else check_tags(tags),
    )


def check_unfinished(wanted: Filter) -> Filter:
    """The filter for what can still be cancelled: any status means every unfinished one. Raises ConfigurationError."""
    if wanted.statuses is None:
        return replace(wanted, statuses=tuple(sorted(UNFINISHED)))
    if ended := [one for one in wanted.statuses if one not in UNFINISHED]:
        raise ConfigurationError(f"cancel_all takes unfinished statuses ({', '.join(sorted(UNFINISHED))}), not {ended[0]}")
    return wanted


def check_dead_filter(registry: Registry, which: Mapping[str, Any], ids: Iterable[uuid.UUID] | None = None) -> DeadFilter:
    """Nothing unknown. Raises ConfigurationError."""
    if unknown := which.keys() - DeadOptions.__annotations__:
        raise ConfigurationError(f"dead tasks are chosen by {', '.join(DeadOptions.__annotations__)}, not by {min(unknown)!r}")
    named = None if ids is None else tuple(ids)
    if named is not None and len(named) > IDS_MAX:
        raise ConfigurationError(f"ids takes at most {IDS_MAX:,} tasks, not {len(named):,}: go in parts")
    type, tags, older_than = (which.get(name) for name in ("type", "tags", "older_than"))
    return DeadFilter(
        queue=check_queue(which.get("queue")),
        type=None if type is None else _canonical(registry, type),
        tags=None if tags is None else check_tags(tags),
        ids=named,
        older_seconds=None if older_than is None else check_delay(older_than, "older_than"),
    )


def check_page(wanted: Filter, *, created_after: datetime | None, limit: object, cursor: str | None) -> Page:
    """Raises ConfigurationError."""
    return Page(
        wanted=wanted,
        created_after=None if created_after is None else check_instant(created_after, "created_after"),
        limit=check_limit(limit),
        before=None if cursor is None else check_id(cursor),
    )


def check_limit(limit: object) -> int:
    """How many a page may hold. Raises ConfigurationError."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_MAX:
        raise ConfigurationError(f"limit takes 1 to {PAGE_MAX}, not {limit!r:.200}")
    return limit


def check_after(after: object) -> int | None:
    """The id of a logged line, or None. Raises ConfigurationError."""
    if after is None or (isinstance(after, int) and not isinstance(after, bool) and 0 <= after <= LINE_ID_MAX):
        return after
    raise ConfigurationError(f"after takes the id of a line that a task logged, not {after!r:.200}")


def check_id(value: object) -> uuid.UUID:
    """A task's id, as a UUID or as text."""
    try:
        return value if isinstance(value, uuid.UUID) else uuid.UUID(value)  # type: ignore[arg-type]  # refused below
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{value!r:.200} is no task id: it takes a UUID or a handle") from error


def check_queue(queue: str | None) -> str | None:
    """None means all queues."""
    return None if queue is None else check_name(queue, "queue")


def check_reason(reason: str | None) -> str | None:
    """Why something was cancelled, for people."""
    return None if reason is None else check_text(reason, "reason", limit=REASON_MAX)


def _statuses(status: Status | str | Iterable[Status | str]) -> tuple[Status, ...]:
    try:
        return tuple(sorted({Status(one) for one in ([status] if isinstance(status, str) else status)}))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{error}; a status is one of {', '.join(Status)}") from error


def _canonical(registry: Registry, type: str) -> str:
    known = registry.find(type)
    return check_name(type, "type") if known is None else known.name
