"""What a lock's holder knows without asking the database: its claim, its token, and until when it can be sure of them.

The holder's own clock is asked only whether the time to live may have passed, counted from before the request was sent: so `lost`
is never false while somebody else may hold the lock, but for a drift between the two clocks' pace.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Generic, TypeVar

from pgqueue import lock_operations
from pgqueue.database import Operation
from pgqueue.errors import ConfigurationError, LockLost, LockTimeout
from pgqueue.lock_operations import Attempt
from pgqueue.locking import Waiting, Wish, check_acquire
from pgqueue.statements import Statements

logger = logging.getLogger("pgqueue.lock")
RV = TypeVar("RV")


class Sent(Generic[RV]):
    """Makes an operation, and notes when: a client may send it several times."""

    def __init__(self, make: Callable[[], Operation[RV]]) -> None:
        self._make = make
        self.at = 0.0

    def __call__(self) -> Operation[RV]:
        self.at = time.monotonic()
        return self._make()


class Holding:
    """What both kinds know without asking the database. One object is one holder: not for several threads or tasks at once."""

    def __init__(self, sql: Statements, wish: Wish) -> None:
        self._sql = sql
        self._wish = wish
        self._claim_id: uuid.UUID | None = None
        self._token: int | None = None
        self._is_valid_until = 0.0
        self._is_lost = False

    @property
    def name(self) -> str:
        return self._wish.name

    @property
    def token(self) -> int | None:
        """The fencing token of the last acquisition: larger than every one before it under this name."""
        return self._token

    @property
    def lost(self) -> bool:
        """Whether the lock was acquired, and may be held by another since: to be asked before what must not happen twice."""
        return self._is_lost or (self._claim_id is not None and time.monotonic() >= self._is_valid_until)

    def __repr__(self) -> str:
        state = "lost" if self.lost else "free" if self._claim_id is None else f"held, token {self._token}"
        return f"<{type(self).__name__} {self.name!r} {state}>"

    def _begin(self, wait: bool, timeout: float | timedelta | None) -> tuple[uuid.UUID, Waiting]:
        waiting = Waiting(check_acquire(wait, timeout), now=time.monotonic())
        if self._claim_id is not None and not self.lost:
            raise ConfigurationError(
                f"this object holds the lock {self.name!r} already: extend() it, or make another with queue.lock()"
            )
        self._claim_id, self._is_lost = None, False
        return uuid.uuid4(), waiting

    def _taking(self, claim_id: uuid.UUID) -> Sent[Attempt]:
        return Sent(lambda: lock_operations.acquire(self._sql, self._wish, claim_id))

    def _taken(self, claim_id: uuid.UUID, token: int, sent_at: float) -> int:
        self._claim_id, self._token = claim_id, token
        self._is_valid_until = sent_at + self._wish.ttl.total_seconds()
        return token

    def _extending(self, claim_id: uuid.UUID, ttl: timedelta) -> Sent[bool]:
        return Sent(lambda: lock_operations.extend(self._sql, self.name, claim_id, ttl))

    def _extended(self, claim_id: uuid.UUID, ttl: timedelta, sent_at: float, *, extended: bool) -> bool:
        if claim_id == self._claim_id:
            if extended:
                self._is_valid_until = sent_at + ttl.total_seconds()
            else:
                self._is_lost = True
        return extended

    def _releasing(self, claim_id: uuid.UUID) -> Callable[[bool], Operation[bool]]:
        believed = not self.lost
        return lambda repeated: lock_operations.release(self._sql, self.name, claim_id, believed=believed, repeated=repeated)

    def _released(self, released: bool) -> bool:
        self._claim_id = None
        self._is_lost = not released
        return released

    def _renewed(self, extended: bool) -> bool:
        if not extended:
            logger.warning("lock %r, token %s, is lost: it expired, or was released by force", self.name, self._token)
        return extended

    def _not_renewed(self, error: BaseException) -> bool:
        """Whether there is still time to try again."""
        logger.warning(
            "lock %r, token %s, could not be renewed, %s: %s",
            self.name, self._token, "and is lost" if self.lost else "trying on", str(error).strip().partition("\n")[0],
        )  # fmt: skip
        return not self.lost

    def _timeout_error(self, attempt: Attempt) -> LockTimeout:
        held = f"{attempt.holder} holds it" if attempt.holder else "others are faster"
        return LockTimeout(f"lock {self.name!r} did not come free within {self._wish.timeout_seconds:g} s: {held}")

    def _lost_error(self) -> LockLost:
        return LockLost(
            f"lock {self.name!r}, token {self._token}, was not held until the end: its time to live of {self._wish.ttl} passed, "
            "or it was released by force. What was done meanwhile may have met another holder's work: give it a longer ttl, "
            "extend() it on the way, or renew=True"
        )
