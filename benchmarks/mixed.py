"""Nine no-ops for each task of 200 ms, in one queue and 100 slots: do the quick ones wait for the slow ones?

The ideal: a task holds a slot for 0.1 × 0.2 s on average, so 100 slots finish 100 / 0.02 = 5,000 tasks a second when every
slot is always taken by a slow one and no-ops pass in no time.
"""

from __future__ import annotations

import time
from datetime import datetime

import psycopg

from benchmarks.drains import drain
from benchmarks.ground import Ground
from benchmarks.latency import milliseconds, percentile
from benchmarks.wire import Wire

SLOTS = 100
SLOW_SHARE, SLOW_SECONDS = 0.1, 0.2
IDEAL_RATE = SLOTS / (SLOW_SHARE * SLOW_SECONDS)
FLAGS = ("--concurrency", str(SLOTS))

# The slots fill at the start and the last slow tasks run alone: neither is what is asked.
MIDDLE = """
    SELECT percentile_disc(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY finished_at) FROM pgqueue.history
"""
SEEN = "SELECT id::text FROM pgqueue.history WHERE id = ANY(%s::uuid[])"


def rate(ground: Ground) -> dict[str, float]:
    """The share of the ideal that is reached between the first and the last tenth of the tasks."""
    count = _count(ground)
    with ground.filled(count, every_tenth="pause") as dsn:
        drain(ground, dsn, count, *FLAGS)
        with psycopg.connect(dsn) as connection:
            row = connection.execute(MIDDLE).fetchone()
    assert row is not None
    first: datetime = row[0][0]
    last: datetime = row[0][1]
    return {"share": 0.8 * count / (last - first).total_seconds() / IDEAL_RATE}


def results(ground: Ground) -> dict[str, float]:
    """How long a no-op takes from its start until somebody else sees it in history.

    Each tenth no-op tells its id when it starts, and a connection looks for those ids about once a millisecond: what is
    measured is a little too long, never too short.
    """
    count = _count(ground)
    with ground.filled(count, type="timed", every_tenth="pause") as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        watch = _Watch(connection)
        drain(ground, dsn, count, *FLAGS, watch=watch.look)
    return {"p99": percentile(watch.seen_ms, 0.99), "p50": percentile(watch.seen_ms, 0.5)}


class _Watch:
    """Looks for what has started until it is in history."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._pending: dict[str, int] = {}
        self._read_count = 0
        self.seen_ms: list[float] = []

    def look(self, wire: Wire) -> None:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            wire.read(0.001)
            for report in wire.reports[self._read_count :]:
                if report[0] == "started":
                    self._pending[report[1]] = int(report[2])
            self._read_count = len(wire.reports)
            if self._pending:
                rows = self._connection.execute(SEEN, (list(self._pending),), prepare=True).fetchall()
                now = time.time_ns()
                self.seen_ms += [milliseconds(now - self._pending.pop(id)) for (id,) in rows]


def _count(ground: Ground) -> int:
    """Ten seconds' worth of the ideal by default."""
    return ground.sizes.tasks // 4
