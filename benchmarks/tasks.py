"""The tasks of the runners under test, and what those tell the benchmark: over a named pipe, so that it costs microseconds and no
statement. Imported by the runner's processes; `wire.py` is the other end.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any

from pgqueue import Task, on_runner_start, task

GATE_POLL_SECONDS = 0.001
SAMPLE_EVERY = 10
"""Of the tasks that tell when they started, one in so many does."""

_directory = os.environ.get("BENCH_DIRECTORY")
_pipe = None if _directory is None else os.open(f"{_directory}/reports", os.O_WRONLY)


def report(kind: str, *words: object) -> None:
    """Tell the benchmark; without one, nobody. Instants are time.time_ns()."""
    if _pipe is not None:
        os.write(_pipe, (" ".join(map(str, (kind, *words))) + "\n").encode())


def _exists(name: str) -> bool:
    return _directory is not None and Path(_directory, name).exists()


@on_runner_start
async def wait_for_the_gate(resources: dict[str, Any]) -> None:
    """Connected and about to claim: say so, and wait until all runners have."""
    if _directory is None:
        return
    report("ready", os.getpid())
    while not _exists("gate"):  # noqa: ASYNC110  # what opens it is another process
        await asyncio.sleep(GATE_POLL_SECONDS)


@task
class Noop(Task):
    """Nothing, as fast as it goes."""

    number: int = 0

    async def run(self) -> None:
        return None


@task
class Threaded(Task):
    """Nothing, in a thread."""

    number: int = 0

    def run(self) -> None:
        return None


@task
class Pause(Task):
    """Wait for something else for 200 ms."""

    number: int = 0

    async def run(self) -> None:
        await asyncio.sleep(0.2)


@task
class Timed(Task):
    """Nothing; some say when they started."""

    number: int = 0

    async def run(self) -> None:
        if self.number % SAMPLE_EVERY == 1:
            report("started", self.context.task_id, time.time_ns())


@task
class Ping(Task):
    """Say when this started, and when it was asked for."""

    sent_ns: int

    async def run(self) -> None:
        report("ping", self.sent_ns, time.time_ns())


@task
class Held(Task):
    """Say that this started, and end once the benchmark lets go."""

    async def run(self) -> None:
        report("started", self.context.task_id, time.time_ns(), os.getpid())
        while _exists("held"):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.05)


@task
class Stall(Task):
    """Block the event loop."""

    seconds: float

    async def run(self) -> None:
        report("started", self.context.task_id, time.time_ns(), os.getpid())
        time.sleep(self.seconds)  # noqa: ASYNC251  # the offence is what is measured


@task
class Holding(Task):
    """Hold the GIL in one call of C, for at least so long: a regular expression that takes twice as long with every letter."""

    seconds: float

    async def run(self) -> None:
        report("started", self.context.task_id, time.time_ns(), os.getpid())
        length, spent = 16, 0.0
        while spent < self.seconds:
            began_at = time.perf_counter()
            re.match(r"(a+)+$", "a" * length + "b")
            spent = time.perf_counter() - began_at
            length += 1


@task
class Waiting(Task):
    """Wait, as a good task does."""

    seconds: float

    async def run(self) -> None:
        report("started", self.context.task_id, time.time_ns(), os.getpid())
        await asyncio.sleep(self.seconds)
