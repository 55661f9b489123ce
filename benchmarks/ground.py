"""What every measurement stands on: the server, the sizes, what the runner under test can do, and fresh databases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import filling, server

ROOT = Path(__file__).parents[1]
HELP_SECONDS_MAX = 60.0


class Skipped(Exception):
    """What is measured is not there; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything. Quick sizes are for trying the benchmark out: their figures mean little."""

    tasks: int
    quick: bool = False

    @property
    def many(self) -> int:
        """Where memory and old snapshots show: five times the tasks, a million by default."""
        return 5 * self.tasks

    @property
    def slow(self) -> int:
        """Tasks of 200 ms are a thousand a second at best."""
        return self.tasks // 10

    @property
    def samples(self) -> int:
        """Latencies to take a p99 of."""
        return 60 if self.quick else 300

    @property
    def rest_seconds(self) -> float:
        return 15.0 if self.quick else 60.0

    @property
    def beats(self) -> int:
        """A day of one runner's heartbeats every five seconds."""
        return 2_000 if self.quick else 18_000


@dataclass(frozen=True, slots=True)
class Ground:
    """The benchmark's own server, and what to do there. `flags` are those of `python -m pgqueue.runner`."""

    server_dsn: str
    sizes: Sizes
    flags: frozenset[str]

    @contextmanager
    def empty(self, name: str = "bench") -> Iterator[str]:
        """The DSN of a fresh, migrated database."""
        with server.database(self.server_dsn, name) as dsn:
            yield dsn

    @contextmanager
    def filled(self, count: int, *, type: str = "noop", every_tenth: str | None = None) -> Iterator[str]:
        """A fresh database with so many ready tasks, vacuumed, analysed and checkpointed."""
        with self.empty() as dsn:
            filling.fill(dsn, count, type=type, every_tenth=every_tenth)
            server.settle_down(dsn)
            yield dsn


def runner_flags() -> frozenset[str]:
    """The flags that the runner knows."""
    command = [sys.executable, "-m", "pgqueue.runner", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=HELP_SECONDS_MAX).stdout
    return frozenset(word.strip("[],") for word in shown.split() if word.startswith(("--", "[--")))
