"""Tasks that are dangerous for their process, for tests of the supervisor."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta

from pgqueue import Retry, Task, on_runner_start, task
from tests.programs import effects

AT_ONCE = timedelta(0)
hoard: list[bytes] = []


@on_runner_start
def fail_if_asked(resources: object) -> None:
    if os.environ.get("HAZARDS_FAIL_AT_START"):
        raise ValueError("the hook failed")


@task
class Innocent(Task[int]):
    """Take a while; the result is the process that it ran in. `marks`: say in the database that it runs."""

    seconds: float = 0.0
    marks: bool = False

    async def run(self) -> int:
        if self.marks:
            await effects._mark(self)
        await asyncio.sleep(self.seconds)
        return os.getpid()


@task
class Segfault(Task):
    seconds: float = 0.0

    async def run(self) -> None:
        await asyncio.sleep(self.seconds)
        ctypes.string_at(0)


@task
class MarkedSegfault(Task):
    """Say in the database that it runs, then take the process down."""

    async def run(self) -> None:
        await effects._mark(self)
        ctypes.string_at(0)


@task(timeout=timedelta(seconds=0.3), retry=Retry(max_attempts=2, initial=AT_ONCE))
class Hang(Task):
    """A C call that never ends and holds the GIL, as a bad regular expression does."""

    async def run(self) -> None:
        ctypes.PyDLL(None).sleep(60)


@task
class HoldGil(Task[int]):
    """The same for a while, and without a timeout."""

    seconds: int = 0

    async def run(self) -> int:
        ctypes.PyDLL(None).sleep(self.seconds)
        return os.getpid()


@task
class BlockLoop(Task[int]):
    seconds: float = 0.0

    async def run(self) -> int:
        time.sleep(self.seconds)  # noqa: ASYNC251  # what it is for
        return os.getpid()


@task
class Hoard(Task[int]):
    """Keep memory for ever."""

    megabytes: int

    async def run(self) -> int:
        hoard.append(b"x" * (self.megabytes * 1024**2))
        return os.getpid()


@task
class Orphan(Task[int]):
    """Leave a process behind whose parent has ended; the result is its pid."""

    def run(self) -> int:
        done = subprocess.run(["sh", "-c", "sleep 0 & echo $!"], capture_output=True, check=True, text=True)
        return int(done.stdout)


@task
class LoseSupervisor(Task):
    """Go on for longer than a child without a supervisor may."""

    async def run(self) -> None:
        await effects._mark(self)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass


@task(batch_size=50, retry=Retry(max_attempts=2, initial=AT_ONCE), timeout=timedelta(seconds=0.3))
class Together(Task):
    """Many at a time; one of them may take the process down, or hold it up."""

    harm: str = ""

    @classmethod
    async def run_many(cls, tasks: Sequence[Together]) -> None:
        harms = {one.harm for one in tasks}
        if "kill" in harms:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in harms:
            ctypes.PyDLL(None).sleep(60)
