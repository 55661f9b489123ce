"""`Batch`: the locked tasks of one lane's transaction, and when that transaction should close.

It closes when all of its tasks have ended; when its patience is over; soon after the first has ended, or after nothing but
running tasks is left, so that finished tasks do not wait long for slow neighbours; and at once when a task must own its row.
Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgqueue.context import Claimed

if TYPE_CHECKING:
    from pgqueue.completer import Settlement

HOLD_SECONDS = 0.004
"""A finished task waits so long for its neighbours; once more as long where they would all be started by then."""
GRACE_SECONDS = 0.002
"""The same when every neighbour runs already: those that end at once may still come along."""


class Batch:
    """What a lane holds by its locks. Slots start and finish its tasks; the lane waits for `due` and closes it."""

    __slots__ = (
        "_asked", "_due", "_grace", "_hold", "_holds_since", "_loop", "_patience", "finished", "is_closed", "late", "left",
        "lost", "tasks", "unstarted",
    )  # fmt: skip

    def __init__(self, tasks: Sequence[Claimed], *, patience_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.tasks = tasks
        self.finished: list[Settlement] = []
        self.late: list[Settlement] = []
        """What ended while the transaction was being closed: leased by then, or lost with it."""
        self.left = self.unstarted = len(tasks)
        self.is_closed = False
        self.lost: frozenset[str] = frozenset()
        """The tasks that were lost with its transaction."""
        self._due: asyncio.Future[None] = self._loop.create_future()
        self._asked: asyncio.Future[None] | None = None
        self._hold: asyncio.TimerHandle | None = None
        self._holds_since = 0.0
        self._grace: asyncio.TimerHandle | None = None
        self._patience = self._loop.call_later(patience_seconds, self.close_soon)

    def start(self) -> None:
        """One of its tasks is being started."""
        self.unstarted -= 1
        if not self.unstarted and self.finished and self._grace is None:
            self._grace = self._loop.call_later(GRACE_SECONDS, self.close_soon)

    def finish(self, settlement: Settlement) -> None:
        """One of its tasks has ended, or is given up before it was started."""
        if self.is_closed:
            self.late.append(settlement)
            return
        self.finished.append(settlement)
        self.left -= 1
        if not self.left:
            self.close_soon()
        elif not self.unstarted:
            if self._grace is None:
                self._grace = self._loop.call_later(GRACE_SECONDS, self.close_soon)
        elif self._hold is None:
            self._holds_since = self._loop.time()
            self._hold = self._loop.call_later(HOLD_SECONDS, self._held_long)

    def _held_long(self) -> None:
        """To give back what is about to be started would cost more than the others lose by waiting for it."""
        held_seconds = self._loop.time() - self._holds_since
        if self.unstarted * held_seconds <= len(self.finished) * HOLD_SECONDS:
            self._hold = self._loop.call_later(HOLD_SECONDS, self.close_soon)
        else:
            self.close_soon()

    async def due(self) -> None:
        """Wait until it should be closed."""
        await self._due

    def close_soon(self) -> None:
        """Let the lane close it now."""
        if not self._due.done():
            self._due.set_result(None)

    def close(self) -> None:
        """From here on what ends is late. Called by the lane, before it sends anything."""
        self.is_closed = True
        self.close_soon()
        for timer in (self._patience, self._hold, self._grace):
            if timer is not None:
                timer.cancel()

    def ended(self, lost: frozenset[str]) -> None:
        """The transaction has ended, and these tasks were lost with its locks."""
        self.lost = lost
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)

    async def lease(self, claimed: Claimed) -> bool:
        """Close the transaction now, so that this running task of it is leased. False: the lock was lost, nothing is owned."""
        if claimed.holding is None:
            return claimed.id not in self.lost
        if self._asked is None:
            self._asked = self._loop.create_future()
        self.close_soon()
        await asyncio.shield(self._asked)
        return claimed.id not in self.lost
