"""Who has fallen silent: the watcher's side of heartbeats. Pure: `now` is the watcher's own monotonic clock, in seconds.

A runner is stale when its beat has not changed for a lease, counted from when this watcher saw it, and from its last
reconnect: so no outage, and no failover to a server whose clock is ahead, makes everyone look dead.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime


class Watch:
    """What one watcher has seen of the beats."""

    def __init__(self, *, lease_seconds: float) -> None:
        self._lease = lease_seconds
        self._seen: dict[uuid.UUID, tuple[datetime, float]] = {}
        self._connection = -1

    def stale(self, beats: Iterable[tuple[uuid.UUID, datetime]], *, now: float, connection: int) -> list[tuple[uuid.UUID, datetime]]:
        """The runners whose beat has stood still for a lease, with that beat. `connection` counts the watcher's connects."""
        if connection != self._connection:
            self._connection = connection
            self._seen.clear()
        current = dict(beats)
        for runner, beat in current.items():
            known = self._seen.get(runner)
            if known is None or known[0] != beat:
                self._seen[runner] = (beat, now)
        for gone in self._seen.keys() - current.keys():
            del self._seen[gone]
        return [(runner, beat) for runner, (beat, since) in self._seen.items() if now - since > self._lease]
