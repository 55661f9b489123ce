"""What a caller asks of an enqueue, checked before anything is sent. Ground: pure.

`EnqueueOptions` is what the keyword arguments of `enqueue` are called and of which type; `Request` is one task ready to insert.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from typing_extensions import TypedDict

from pgqueue.errors import ConfigurationError
from pgqueue.retry import Retry

PRIORITY_MIN, PRIORITY_MAX = -32_767, 32_767
NAME_MAX = 200
"""Characters in a queue's or type's name: an index row holds 2,700 bytes, and a character takes up to four."""
TAG_COUNT_MAX = 50
INSTANT_MIN, INSTANT_MAX = 2, 9998
"""Years between which an instant may lie, in any timezone, so that Python and PostgreSQL both hold it."""


@dataclass(frozen=True, slots=True)
class Unique:
    """One unfinished task per type and queue, and per the values of these payload fields."""

    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        by = (self.by,) if isinstance(self.by, str) else tuple(self.by)
        if not all(isinstance(name, str) for name in by):
            raise ConfigurationError(f"Unique(by=...) takes names of payload fields, not {self.by!r}")
        object.__setattr__(self, "by", by)


IdempotencyKey = str | Callable[[Any], str]


class EnqueueOptions(TypedDict, total=False):
    """What one enqueue may say beside the task; each overrides the type's own option."""

    delay: timedelta | None
    at: datetime | None
    expires: timedelta | datetime | None
    priority: int | None
    queue: str | None
    timeout: timedelta | None
    retry: Retry | None
    unique: bool | Unique | None
    idempotency_key: str | None
    tags: Sequence[str] | None
    headers: Mapping[str, str] | None
    connection: Any


@dataclass(frozen=True, slots=True)
class Request:
    """One task ready to insert. Instants are absolute or relative to the database's clock, never to this machine's."""

    id: uuid.UUID
    queue: str
    type: str
    priority: int
    payload: str
    delay_seconds: float | None
    at: datetime | None
    expires_seconds: float | None
    expires_at: datetime | None
    unique_key: bytes | None
    idempotency_key: bytes | None
    idempotency_seconds: float
    tags: tuple[str, ...] | None
    headers: str | None
    options: str | None


def check_name(name: Any, what: str) -> str:
    """A queue's or type's name: 1 to 200 characters that PostgreSQL stores. Anything printable goes, quotes and emoji too."""
    if not isinstance(name, str) or not name or len(name) > NAME_MAX:
        shown = repr(name) if not isinstance(name, str) or len(name) < 60 else f"one of {len(name)} characters"
        raise ConfigurationError(f"{what} takes a name of 1 to {NAME_MAX} characters, not {shown}")
    if not name.isprintable():
        raise ConfigurationError(f"{what} {name!r} holds a character that cannot be printed")
    return name


def check_priority(priority: Any) -> int:
    """Higher runs first. −32,768 is refused, since claims order by the negative."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise ConfigurationError(f"priority takes a whole number from {PRIORITY_MIN} to {PRIORITY_MAX}, not {priority!r}")
    return priority


def check_tags(tags: Any) -> tuple[str, ...]:
    """Up to 50 labels; sorted, each once."""
    if isinstance(tags, str) or not isinstance(tags, Sequence | set | frozenset):
        raise ConfigurationError(f'tags takes a list of strings such as ["billing"], not {tags!r}')
    if len(tags) > TAG_COUNT_MAX:
        raise ConfigurationError(f"tags takes at most {TAG_COUNT_MAX} labels, not {len(tags)}")
    return tuple(sorted({check_name(tag, "a tag") for tag in tags}))


def check_delay(delay: Any, what: str) -> float:
    """Seconds of a timedelta of zero or more, within ten years' reach of any calendar."""
    if not isinstance(delay, timedelta):
        raise ConfigurationError(f"{what} takes a timedelta such as timedelta(minutes=5), not {delay!r}")
    if delay < timedelta(0) or delay > timedelta(days=365_000):
        raise ConfigurationError(f"{what} takes a timedelta from 0 to 365,000 days, not {delay}")
    return delay.total_seconds()


def check_positive(duration: Any, what: str) -> timedelta:
    if check_delay(duration, what) == 0:
        raise ConfigurationError(f"{what} takes a timedelta above zero")
    result: timedelta = duration
    return result


def check_instant(instant: Any, what: str) -> datetime:
    """An aware datetime between the years 2 and 9998; a naive one could mean any of 38 instants."""
    if not isinstance(instant, datetime):
        raise ConfigurationError(f"{what} takes an aware datetime, not {instant!r}")
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise ConfigurationError(f"{what}={instant.isoformat()} is naive: add its timezone, e.g. datetime.now(timezone.utc)")
    if not INSTANT_MIN <= instant.year <= INSTANT_MAX:
        raise ConfigurationError(f"{what}={instant.isoformat()} is outside the years {INSTANT_MIN} to {INSTANT_MAX}")
    return instant
