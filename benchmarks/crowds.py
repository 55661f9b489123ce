"""Drains beside a crowd that is none of the runner's business: delayed tasks, or tasks of a type that nobody knows."""

from __future__ import annotations

import time

from benchmarks import filling, server
from benchmarks.drains import drain
from benchmarks.ground import Ground, Skipped
from benchmarks.programs import pause, runners
from benchmarks.wire import Wire

DAY_SECONDS = 86_400.0
AHEAD = 200
UNKNOWN = "unknown"
BLOCKING_SECONDS_MAX = 300.0
FIRST_SECONDS_MAX = 15.0
SOON = {"PGQUEUE_UNKNOWN_TYPE_DELAY": "1s"}
"""Instead of a minute: how long it is waited for a runner that knows them is not what is measured."""
FRESH = "SELECT count(*) FROM pgqueue.task WHERE type = 'unknown' AND status = 'ready'"


def delayed(ground: Ground) -> dict[str, float]:
    """Delayed tasks of a higher priority beside."""
    with ground.empty() as dsn:
        filling.fill(dsn, ground.sizes.many, priority=AHEAD, delay=DAY_SECONDS)
        return _drained(ground, dsn, ground.sizes.tasks)


def unknown_fresh(ground: Ground) -> dict[str, float]:
    """Tasks of an unknown type ahead, which nobody has put aside yet. A quarter of the tasks: it may take long."""
    with ground.empty() as dsn:
        filling.fill(dsn, ground.sizes.many, type=UNKNOWN, priority=AHEAD)
        return _drained(ground, dsn, ground.sizes.tasks // 4)


def unknown_blocked(ground: Ground) -> dict[str, float]:
    """The same once a runner has put them aside."""
    with ground.empty() as dsn:
        filling.fill(dsn, ground.sizes.many, type=UNKNOWN, priority=AHEAD)
        seconds = _block(ground, dsn)
        return _drained(ground, dsn, ground.sizes.tasks) | {"blocking_seconds": seconds}


def _block(ground: Ground, dsn: str) -> float:
    """Let a runner put them aside. Returns seconds. Raises Skipped when it does not begin to."""
    began_at = time.monotonic()
    with Wire() as wire, runners(ground, dsn, wire=wire, settings=SOON) as started:
        wire.open()
        while (left := server.ask(dsn, FRESH)) > 0:
            spent = time.monotonic() - began_at
            if left == ground.sizes.many and spent > FIRST_SECONDS_MAX:
                raise Skipped("the runner does not put tasks of unknown types aside")
            if spent > BLOCKING_SECONDS_MAX:
                raise TimeoutError(f"{left} tasks of an unknown type were not put aside within {spent:.0f} s")
            pause(0.2, wire, started)
    return time.monotonic() - began_at


def _drained(ground: Ground, dsn: str, count: int) -> dict[str, float]:
    filling.fill(dsn, count)
    server.settle_down(dsn)
    return {"rate": drain(ground, dsn, count)}
