"""Latencies: from before the call of `enqueue` to the first line of the task, on one machine and by one clock."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import partial

from benchmarks import server
from benchmarks.ground import Ground
from benchmarks.programs import check, pause, runners
from benchmarks.tasks import Ping
from benchmarks.wire import Wire
from pgqueue import Queue

WAIT_SECONDS_MAX = 30.0
IDLE_SECONDS = (0.05, 0.5)
"""Between two tasks: the runner falls asleep again, more or less deeply."""
URGENT_SECONDS = 0.02
URGENT_PRIORITY = 200
LEFT = "SELECT EXISTS (SELECT FROM pgqueue.task WHERE type = 'noop' AND status = 'ready')"


def idle(ground: Ground) -> dict[str, float]:
    """An idle runner, one task at a time."""
    return _idle(ground)


def idle_without_listening(ground: Ground) -> dict[str, float]:
    """The same by polls alone."""
    return _idle(ground, "--no-listen")


def _idle(ground: Ground, *flags: str) -> dict[str, float]:
    chance = random.Random(1)
    with ground.empty() as dsn, Wire() as wire, runners(ground, dsn, *flags, wire=wire) as started, Queue(dsn) as queue:
        wire.open()
        for number in range(1, ground.sizes.samples + 1):
            pause(chance.uniform(*IDLE_SECONDS), wire, started)
            queue.enqueue(Ping(sent_ns=time.time_ns()))
            wire.wait(partial(_has_started, wire, number), WAIT_SECONDS_MAX, "start of a task", partial(check, started))
        waited = _waited_ms(wire)
    return {"p50": percentile(waited, 0.5), "p99": percentile(waited, 0.99)}


def urgent(ground: Ground) -> dict[str, float]:
    """Tasks of a higher priority amid a great many, with four runners and an old snapshot held open."""
    with (
        ground.filled(ground.sizes.many) as dsn,
        server.old_snapshot(dsn),
        Wire() as wire,
        runners(ground, dsn, wire=wire, processes=4) as started,
        Queue(dsn) as queue,
    ):
        wire.open()
        sent = 0
        while sent < ground.sizes.samples and server.ask(dsn, LEFT):
            pause(URGENT_SECONDS, wire, started)
            queue.enqueue(Ping(sent_ns=time.time_ns()), priority=URGENT_PRIORITY)
            sent += 1
        wire.wait(partial(_has_started, wire, sent), WAIT_SECONDS_MAX, f"start of all {sent} tasks")
        return {"p99": percentile(_waited_ms(wire), 0.99) / 1_000, "count": sent}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    if not values:
        raise RuntimeError("nothing was measured")
    ranked = sorted(values)
    return ranked[max(0, min(len(ranked) - 1, -int(-share * len(ranked) // 1) - 1))]


def milliseconds(nanoseconds: int) -> float:
    return nanoseconds / 1e6


def _has_started(wire: Wire, count: int) -> bool:
    return len(wire.told("ping")) >= count


def _waited_ms(wire: Wire) -> list[float]:
    return [milliseconds(int(started) - int(sent)) for sent, started in wire.told("ping")]
