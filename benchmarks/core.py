"""`scripts/bench core`: how fast one process drains, beside the yardstick of the same run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import yardstick
from benchmarks.server import database, server, settle_down, version
from benchmarks.tasks import Noop
from pgqueue import Queue

BATCH = 500
CHUNK = 20_000


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: rates in tasks a second, one for each run."""

    name: str
    rates: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "median": round(self.median), "runs": [round(rate) for rate in self.rates]}


def run(*, tasks: int, runs: int, as_json: bool) -> None:
    """Interleave the figures, `runs` times each, and print them with their ratio to the yardstick."""
    measures: dict[str, Callable[[str, int], float]] = {"yardstick": _yardstick, "drain": _drain, "enqueue_many": _enqueue}
    rates: dict[str, list[float]] = {name: [] for name in measures}
    with server() as dsn:
        found = version(dsn)
        for number in range(1, runs + 1):
            for name, measure in measures.items():
                _say(f"run {number} of {runs}: {name}")
                rates[name].append(measure(dsn, tasks))
    figures = [Figure(name, values) for name, values in rates.items()]
    report = {
        "postgresql": found,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "tasks": tasks,
        "batch": BATCH,
        "figures": [figure.as_json() for figure in figures],
        "drain_to_yardstick": round(
            statistics.median(drain / yard for drain, yard in zip(rates["drain"], rates["yardstick"], strict=True)), 3
        ),
    }
    print(json.dumps(report) if as_json else _table(report, figures))


def _yardstick(dsn: str, tasks: int) -> float:
    with database(dsn, "yardstick") as own:
        _fill(own, tasks)
        settle_down(own)
        return yardstick.rate(own, types=["noop"], count=tasks, batch=BATCH)


def _drain(dsn: str, tasks: int) -> float:
    """One runner process, started before the clock runs; the time is from its first claim to its last settle."""
    with database(dsn, "drain") as own:
        _fill(own, tasks)
        settle_down(own)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.drain", own, str(tasks)], capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode != 0:
            raise RuntimeError(f"the drain failed: {done.stderr.strip()[-800:]}")
        return tasks / float(json.loads(done.stdout)["seconds"])


def _enqueue(dsn: str, tasks: int) -> float:
    with database(dsn, "enqueue") as own:
        return tasks / _fill(own, tasks)


def _fill(dsn: str, tasks: int) -> float:
    """Enqueue so many tasks in bulk. Returns seconds."""
    with Queue(dsn) as queue:
        started_at = time.perf_counter()
        for first in range(0, tasks, CHUNK):
            queue.enqueue_many(Noop(number=number) for number in range(first, min(first + CHUNK, tasks)))
        return time.perf_counter() - started_at


def _table(report: dict[str, Any], figures: list[Figure]) -> str:
    ground = f"PostgreSQL {report['postgresql']}, Python {report['python']}, {report['cores']} cores"
    head = f"{report['tasks']:,} tasks in batches of {BATCH}; {ground}"
    lines = [
        f"{figure.name:<14} {figure.median:>10,.0f} /s   runs: {', '.join(f'{rate:,.0f}' for rate in figure.rates)}"
        for figure in figures
    ]
    return "\n".join([head, *lines, f"drain / yardstick: {report['drain_to_yardstick']:.2f}"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
