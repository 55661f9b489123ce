"""Who has fallen silent: the watcher's side of heartbeats. Pure: `now` is the watcher's own monotonic clock, in seconds.

A runner is stale when its beat has not changed for a lease, counted from when this watcher saw it, from its last reconnect, and
from its last pause: so no outage, no failover to a server whose clock is ahead, and no watcher that was itself stopped for a
while makes everyone look dead. A runner that holds tasks without being registered counts as one whose beat is None.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime

PAUSE_SHARE = 0.5
"""A watcher that has not looked for this part of a lease begins anew."""
Beat = tuple[uuid.UUID, datetime | None]


class Watch:
    """What one watcher has seen of the beats."""

    def __init__(self, *, lease_seconds: float) -> None:
        self._lease = lease_seconds
        self._seen: dict[uuid.UUID, tuple[datetime | None, float]] = {}
        self._connection = -1
        self._looked_at = float("-inf")

    def stale(self, beats: Iterable[Beat], *, now: float, connection: int) -> list[Beat]:
        """The runners whose beat has stood still for a lease, with that beat. `connection` counts the watcher's connects."""
        if connection != self._connection or now - self._looked_at > self._lease * PAUSE_SHARE:
            self._seen.clear()
        self._connection, self._looked_at = connection, now
        current = dict(beats)
        for runner, beat in current.items():
            known = self._seen.get(runner)
            if known is None or known[0] != beat:
                self._seen[runner] = (beat, now)
        for gone in self._seen.keys() - current.keys():
            del self._seen[gone]
        return [(runner, beat) for runner, (beat, since) in self._seen.items() if now - since > self._lease]
