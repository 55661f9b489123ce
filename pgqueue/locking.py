"""How a named lock is asked for, waited for and renewed: checks and pauses. Ground: pure, `now` and `random` are arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pgqueue.errors import ConfigurationError
from pgqueue.filters import PAGE_MAX
from pgqueue.requests import check_name, check_positive

TTL_MAX = timedelta(days=366)
"""Whoever needs a lock for longer extends it."""
RENEWED_TTL_MIN = timedelta(milliseconds=100)
"""Below it a renewal would hammer the database."""
TIMEOUT_MAX_SECONDS = 366 * 86_400.0
POLL_MIN_SECONDS = 0.01
POLL_MAX_SECONDS = 1.0
POLL_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. timeout_seconds: how long a `with` waits; None: without end. holder: who it is, for people."""

    name: str
    ttl: timedelta
    timeout_seconds: float | None
    renew: bool
    holder: str


def check_lock(name: Any, *, ttl: Any, timeout: Any, renew: Any, holder: Any) -> Wish:
    """Raises ConfigurationError."""
    if not isinstance(renew, bool):
        raise ConfigurationError(f"renew takes True or False, not {renew!r}")
    checked = check_ttl(ttl)
    if renew and checked < RENEWED_TTL_MIN:
        raise ConfigurationError(f"renew=True takes a ttl of {RENEWED_TTL_MIN.total_seconds():g} s at least, not {checked}")
    return Wish(
        name=check_name(name, "a lock"),
        ttl=checked,
        timeout_seconds=check_timeout(timeout),
        renew=renew,
        holder=check_name(holder, "holder"),
    )


def check_ttl(ttl: Any) -> timedelta:
    """How long a lock is held unless extended: above zero, a year at most. Raises ConfigurationError."""
    checked = check_positive(ttl, "ttl")
    if checked > TTL_MAX:
        raise ConfigurationError(f"ttl takes at most {TTL_MAX.days} days, not {checked}: extend the lock while it is needed")
    return checked


def check_timeout(timeout: Any) -> float | None:
    """Seconds to wait; None: without end. Raises ConfigurationError."""
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= TIMEOUT_MAX_SECONDS:
        raise ConfigurationError(
            f"timeout takes seconds or a timedelta from 0 to a year, or None to wait without end, not {timeout!r}"
        )
    return float(seconds)


def check_acquire(wait: Any, timeout: Any) -> float | None:
    """Seconds that an acquire waits. Raises ConfigurationError."""
    if not isinstance(wait, bool):
        raise ConfigurationError(f"wait takes True or False, not {wait!r}; for how long is timeout=")
    if not wait and timeout is not None:
        raise ConfigurationError("wait=False does not wait, and timeout= says how long to: give one of them")
    return check_timeout(timeout) if wait else 0.0


def check_lock_page(limit: Any, cursor: Any) -> tuple[int, str | None]:
    """Raises ConfigurationError."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_MAX:
        raise ConfigurationError(f"limit takes 1 to {PAGE_MAX}, not {limit!r}")
    return limit, None if cursor is None else check_name(cursor, "cursor")


class Waiting:
    """The pauses of one who waits for a lock: they grow from 10 ms to a second, and are spread so that many do not come at once.

    Instants are seconds of one monotonic clock.
    """

    def __init__(self, timeout_seconds: float | None, *, now: float) -> None:
        self._deadline = None if timeout_seconds is None else now + timeout_seconds
        self._poll_seconds = POLL_MIN_SECONDS

    def pause(self, left_seconds: float, *, now: float, random: Callable[[], float]) -> float | None:
        """Seconds until the next look, with one at the deadline; None: the time is up.

        left_seconds: for how long the holder has the lock still, unless it extends it or lets go.
        """
        if self._deadline is not None and now >= self._deadline:
            return None
        pause = self._poll_seconds * (0.5 + random() / 2)
        self._poll_seconds = min(POLL_MAX_SECONDS, self._poll_seconds * POLL_GROWTH)
        # It comes free then at the latest: not a moment for all who wait, hence the spread.
        pause = min(pause, max(0.0, left_seconds) + POLL_MIN_SECONDS * (0.5 + random() / 2))
        return pause if self._deadline is None else min(pause, self._deadline - now)


def renewal_pause(ttl: timedelta, *, failed: bool) -> float:
    """Seconds until the next renewal: a third of the time to live, or a tenth of it where the last one could not be sent."""
    return ttl.total_seconds() / (10 if failed else 3)
