"""`scripts/bench core`: takes the measurements, interleaved, each within its limit, and prints the table."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from benchmarks import server
from benchmarks.figures import Measurement, Record, read, select
from benchmarks.ground import Ground, Sizes, Skipped, runner_flags
from benchmarks.registry import FIGURES, MEASUREMENTS
from benchmarks.report import table


class Overdue(Exception):
    """A measurement took longer than its limit."""


def run(*, sizes: Sizes, runs: int, only: Sequence[str], as_json: bool) -> int:
    """Take what the figures of these names need, `runs` times, and print them. Returns 1 if something failed, else 0: a target
    that is missed is a figure, not an error. Raises ValueError for a name that is none."""
    figures = select(FIGURES, only)
    needed = {name for figure in figures for name in figure.measurements}
    measurements = [measurement for measurement in MEASUREMENTS if measurement.name in needed]
    with server.server() as dsn:
        ground = Ground(dsn, sizes, runner_flags())
        facts = {
            "postgresql": server.version(dsn),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "tasks": sizes.tasks,
            "quick": sizes.quick,
        }
        records = take(ground, measurements, runs)
    readings = [read(figure, records) for figure in figures]
    if as_json:
        taken = {name: [dict(values) for values in record.runs] for name, record in records.items()}
        print(json.dumps(facts | {"figures": [reading.as_json() for reading in readings], "measurements": taken}))
    else:
        print(table(facts, readings))
    return 1 if any(reading.failed for reading in readings) else 0


def take(ground: Ground, measurements: Sequence[Measurement], runs: int) -> dict[str, Record]:
    """Interleaved: all of them, then all again, so that a machine that slows down slows all. One that failed is not repeated."""
    records = {measurement.name: Record() for measurement in measurements}
    for number in range(1, runs + 1):
        for measurement in measurements:
            record = records[measurement.name]
            if not record.is_over and not (measurement.once and number > 1):
                _take(ground, measurement, record, f"run {number} of {runs}")
    return records


def _take(ground: Ground, measurement: Measurement, record: Record, where: str) -> None:
    if missing := [flag for flag in measurement.needs if flag not in ground.flags]:
        record.skipped = f"python -m pgqueue.runner has no {missing[0]}"
        return
    _say(f"{where}: {measurement.name}")
    began_at = time.monotonic()
    try:
        with _limited(measurement.limit_seconds):
            values = measurement.measure(ground)
    except Skipped as skipped:
        record.skipped = str(skipped)
        _say(f"  skipped: {record.skipped}")
    except Exception as error:  # noqa: BLE001  # the other figures are worth having
        record.failed = f"{type(error).__name__}: {error}"
        _say(f"  failed: {record.failed}")
    else:
        record.runs.append(values)
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in values.items())
        _say(f"  {shown}   ({time.monotonic() - began_at:.0f} s)")


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise Overdue in the main thread when it takes longer; the programs under test end with the blocks that it leaves."""

    def overdue(number: int, frame: FrameType | None) -> None:
        raise Overdue(f"it was not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
