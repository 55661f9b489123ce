"""Drains: how fast ready tasks get into history, by runner processes of their own.

The clock is the database's. It starts when the gate opens for runners that are connected and about to claim, and stops with the
last `finished_at` in history; the COMMIT behind that one, a disk's flush, is not in it. Every task must have arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from benchmarks import server
from benchmarks.ground import Ground
from benchmarks.programs import are_running, resident_bytes, runners
from benchmarks.wire import Wire

MEBIBYTE = 1024 * 1024
LEASED = ("--patience", "0s")

Watch = Callable[[Wire], None]

SETTLED = "SELECT count(*) FROM pgqueue.history"
SPENT = "SELECT extract(epoch FROM max(finished_at) - %(opened_at)s)::float8 FROM pgqueue.history"


def drain(ground: Ground, dsn: str, count: int, *flags: str, processes: int = 1, watch: Watch = Wire.idle) -> float:
    """Tasks a second. `watch` is called again and again meanwhile, and takes its time."""
    with Wire() as wire, runners(ground, dsn, "--drain", *flags, wire=wire, processes=processes) as started:
        opened_at: datetime = server.ask(dsn, "SELECT clock_timestamp()")
        wire.open()
        while are_running(started):
            watch(wire)
    found = server.ask(dsn, SETTLED)
    if found != count:
        raise RuntimeError(f"{found} of {count} tasks are in history")
    seconds: float = server.ask(dsn, SPENT, opened_at=opened_at)
    return count / seconds


def plain(ground: Ground) -> dict[str, float]:
    """No-ops, one process, everything as it comes."""
    return _drained(ground)


def leased(ground: Ground) -> dict[str, float]:
    """The same with every claim written down."""
    return _drained(ground, *LEASED)


def threads(ground: Ground) -> dict[str, float]:
    """Sync tasks, which run in threads."""
    return _drained(ground, type="threaded")


def two(ground: Ground) -> dict[str, float]:
    return _drained(ground, processes=2)


def eight(ground: Ground) -> dict[str, float]:
    return _drained(ground, processes=8)


def eight_leased(ground: Ground) -> dict[str, float]:
    return _drained(ground, *LEASED, processes=8)


def slow(ground: Ground) -> dict[str, float]:
    """Tasks of 200 ms in 200 slots: a thousand a second is all there is."""
    return _slow(ground)


def slow_leased(ground: Ground) -> dict[str, float]:
    return _slow(ground, *LEASED)


def many(ground: Ground) -> dict[str, float]:
    """Five times the tasks, while the memory of the process that runs them is looked at."""
    samples: list[int] = []

    def watch(wire: Wire) -> None:
        samples.append(max(map(resident_bytes, wire.ready_pids), default=0))
        wire.read(0.05)

    with ground.filled(ground.sizes.many) as dsn:
        rate = drain(ground, dsn, ground.sizes.many, watch=watch)
    return {"rate": rate, "mebibytes": max(samples) / MEBIBYTE, "growth": growth(samples)}


def many_old_snapshot(ground: Ground) -> dict[str, float]:
    """The same while another connection holds an old snapshot."""
    with ground.filled(ground.sizes.many) as dsn, server.old_snapshot(dsn):
        return {"rate": drain(ground, dsn, ground.sizes.many)}


def growth(samples: list[int]) -> float:
    """The peak of the last quarter over that of the second: 1 is flat. The first quarter warms up."""
    quarter = max(1, len(samples) // 4)
    return max(samples[-quarter:]) / max(samples[quarter : 2 * quarter] or samples)


def _drained(ground: Ground, *flags: str, processes: int = 1, type: str = "noop") -> dict[str, float]:
    count = ground.sizes.tasks
    with ground.filled(count, type=type) as dsn:
        return {"rate": drain(ground, dsn, count, *flags, processes=processes)}


def _slow(ground: Ground, *flags: str) -> dict[str, float]:
    count = ground.sizes.slow
    with ground.filled(count, type="pause") as dsn:
        return {"rate": drain(ground, dsn, count, "--concurrency", "200", *flags)}
