"""What a caller asks of an enqueue, checked before anything is sent. Ground: pure.

`EnqueueOptions` is what the keyword arguments of `enqueue` are called and of which type; `Request` is one task ready to insert.
"""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeAlias

from typing_extensions import TypedDict

from pgqueue.errors import ConfigurationError
from pgqueue.retry import Retry

PRIORITY_MIN, PRIORITY_MAX = -32_767, 32_767
NAME_MAX = 200
"""Characters in a queue's or type's name: an index row holds 2,700 bytes, and a character takes up to four."""
TAG_COUNT_MAX = 50
DELAY_MAX = timedelta(days=365_000)
INSTANT_MIN, INSTANT_MAX = 2, 9998
"""Years in UTC between which an instant may lie, so that Python and PostgreSQL both hold it in any timezone."""
AGING_MAX = timedelta(days=3_650)
"""With it the difference that all priorities make still fits a timedelta and an interval."""
REASON_MAX = 10_000
"""Characters in the reason of a cancellation."""


@dataclass(frozen=True, slots=True)
class Unique:
    """One unfinished task per type and queue, and per the values of these payload fields."""

    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        by: object = self.by
        names = (by,) if isinstance(by, str) else tuple(by) if isinstance(by, Iterable) else (by,)
        if not all(isinstance(name, str) and name for name in names):
            raise ConfigurationError(f'Unique(by=...) takes names of payload fields, such as by=("user_id",), not {by!r}')
        object.__setattr__(self, "by", names)


IdempotencyKey: TypeAlias = "str | Callable[[Any], str]"


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
    idempotency_key: IdempotencyKey | None
    tags: Sequence[str] | None
    headers: Mapping[str, str] | None
    notify: bool | None


class QueueOptions(TypedDict, total=False):
    """What may be set of a queue; what is left out stays as it is."""

    aging: timedelta | None


class Request(NamedTuple):
    """One task ready to insert. Instants are absolute or relative to the database's clock, never to this machine's.

    A tuple: a frozen dataclass of so many fields takes four times as long to make.
    """

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
    notify: bool = True
    keeps_priority: bool = False
    """The enqueue itself named the priority, so it wins over what an operator has set of the type."""


def check_name(name: Any, what: str) -> str:
    """A queue's or type's name: 1 to 200 characters that PostgreSQL stores. Quotes, blanks and emoji are fine."""
    if not isinstance(name, str) or not name or len(name) > NAME_MAX:
        shown = repr(name) if not isinstance(name, str) or len(name) < 60 else f"one of {len(name)} characters"
        raise ConfigurationError(f"{what} takes a name of 1 to {NAME_MAX} characters, not {shown}")
    if not name.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise ConfigurationError(f"{what} {name!r} holds a control character or half of a surrogate pair")
    return str.__str__(name)  # the plain string of a StrEnum, which the driver would adapt as an enum


def check_text(text: Any, what: str, *, limit: int) -> str:
    """Prose that PostgreSQL stores: no NUL, no half surrogates, and of bounded length."""
    if not isinstance(text, str) or len(text) > limit:
        shown = repr(text) if not isinstance(text, str) else f"one of {len(text)}"
        raise ConfigurationError(f"{what} takes a text of up to {limit:,} characters, not {shown}")
    if "\0" in text or any(unicodedata.category(character) == "Cs" for character in text if not character.isascii()):
        raise ConfigurationError(f"{what} holds a NUL or half of a surrogate pair, which PostgreSQL cannot store")
    return str.__str__(text)


def check_priority(priority: Any) -> int:
    """Higher runs first. −32,768 is refused, since claims order by the negative."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise ConfigurationError(f"priority takes a whole number from {PRIORITY_MIN} to {PRIORITY_MAX}, not {priority!r}")
    return int(priority)


def check_tags(tags: Any, *more: str) -> tuple[str, ...]:
    """Up to 50 labels, `more` among them; sorted, each once."""
    if isinstance(tags, str) or not isinstance(tags, Sequence | set | frozenset):
        raise ConfigurationError(f'tags takes a list of strings such as ["billing"], not {tags!r}')
    checked = sorted({check_name(tag, "a tag") for tag in (*tags, *more)})
    if len(checked) > TAG_COUNT_MAX:
        raise ConfigurationError(f"tags takes at most {TAG_COUNT_MAX} labels, not {len(checked)}")
    return tuple(checked)


def check_delay(delay: Any, what: str) -> float:
    """Seconds of a timedelta of zero or more, within the calendar's reach."""
    if not isinstance(delay, timedelta):
        raise ConfigurationError(f"{what} takes a timedelta such as timedelta(minutes=5), not {delay!r}")
    if not timedelta(0) <= delay <= DELAY_MAX:
        raise ConfigurationError(f"{what} takes a timedelta from 0 to {DELAY_MAX.days:,} days, not {delay}")
    return delay.total_seconds()


def check_positive(duration: Any, what: str) -> timedelta:
    """A timedelta above zero."""
    if check_delay(duration, what) == 0:
        raise ConfigurationError(f"{what} takes a timedelta above zero")
    result: timedelta = duration
    return result


def check_queue_options(options: Mapping[str, Any]) -> QueueOptions:
    """What is to be set of a queue: something, and nothing unknown."""
    known = QueueOptions.__annotations__
    if not options or options.keys() - known:
        wrong = f"has no option {min(options.keys() - known)!r}" if options else "was given nothing to set"
        raise ConfigurationError(f"configure {wrong}; it takes {', '.join(known)}")
    aging = options["aging"]
    return {"aging": None if aging is None else check_aging(aging)}


def check_aging(aging: Any) -> timedelta:
    """How long a task waits for one step of priority."""
    if check_positive(aging, "aging") > AGING_MAX:
        raise ConfigurationError(f"aging takes at most {AGING_MAX.days:,} days, not {aging}")
    result: timedelta = aging
    return result


def check_instant(instant: Any, what: str) -> datetime:
    """An aware datetime between the years 2 and 9998, in UTC; a naive one could mean any of 38 instants."""
    if not isinstance(instant, datetime):
        raise ConfigurationError(f"{what} takes an aware datetime, not {instant!r}")
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise ConfigurationError(f"{what}={instant.isoformat()} is naive: add its timezone, e.g. datetime.now(timezone.utc)")
    try:
        utc = instant.astimezone(UTC)
    except OverflowError:
        utc = None
    if utc is None or not INSTANT_MIN <= utc.year <= INSTANT_MAX:
        raise ConfigurationError(f"{what}={instant.isoformat()} is outside the years {INSTANT_MIN} to {INSTANT_MAX}")
    return utc
