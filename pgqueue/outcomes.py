"""What a task may raise on purpose, and what an attempt comes to.

`Snooze`, `Ignore`, `Cancel` and `RetryIn` are raised by user code to say how the attempt ends. They are no errors: no
traceback is stored for them, except that `RetryIn` counts as a failed attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from pgqueue.requests import DELAY_MAX


class OutcomeRequest(Exception):
    """Root of what a task raises on purpose: an order to the runner, not an error."""


class Snooze(OutcomeRequest):
    """Run this task again after `delay`, and spend no attempt."""

    def __init__(self, delay: timedelta) -> None:
        super().__init__(f"snoozed for {delay}")
        self.delay = _not_negative(delay, "Snooze")


class RetryIn(OutcomeRequest):
    """Fail this attempt and run the task again after `delay`, whatever its retry policy says."""

    def __init__(self, delay: timedelta, reason: str = "") -> None:
        super().__init__(reason or f"retry in {delay}")
        self.delay = _not_negative(delay, "RetryIn")


class Ignore(OutcomeRequest):
    """End the task without a result; it is kept in history as ignored."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Cancel(OutcomeRequest):
    """End the task; it is kept in history as cancelled."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def _not_negative(delay: object, name: str) -> timedelta:
    if isinstance(delay, timedelta) and timedelta(0) <= delay <= DELAY_MAX:
        return delay
    raise ValueError(f"{name}(delay) takes a timedelta from 0 to {DELAY_MAX.days:,} days, not {delay!r}")


class Verdict(Enum):
    """How an attempt ended. `settle` writes each of them down."""

    SUCCEEDED = auto()
    CANCELLED = auto()
    IGNORED = auto()
    RETRIED = auto()  # failed, and goes back with a delay
    DEAD = auto()  # failed, and does not go back
    SNOOZED = auto()  # goes back with a delay, attempt refunded
    RETURNED = auto()  # goes back as it came, attempt refunded: never started, or interrupted
    SETTLED = auto()  # written down already, by `context.transaction()`


def clean(text: str) -> str:
    """Text that PostgreSQL can store: no NUL, no half surrogates."""
    text = str(text).replace("\0", "\\x00")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class Failure:
    """What is stored about a failed attempt; strings only, cleaned of what PostgreSQL refuses."""

    error_type: str
    error: str
    traceback: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt came to. `delay_seconds` counts for RETRIED and SNOOZED, `result` (JSON) for SUCCEEDED."""

    verdict: Verdict
    result: str | None = None
    delay_seconds: float = 0.0
    reason: str | None = None
    failure: Failure | None = None
    mark: str | None = None
    """JSON merged into the row's options when it goes back."""


SUCCEEDED = Outcome(Verdict.SUCCEEDED)
"""The commonest outcome, made once: success without a result."""

CANCELLED = Outcome(Verdict.CANCELLED, reason="cancelled while it ran")
RETURNED = Outcome(Verdict.RETURNED)
SETTLED = Outcome(Verdict.SETTLED)
