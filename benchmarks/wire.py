"""The benchmark's end of what the runners tell: who is ready, and what started when. Behind it stands the gate.

A runner that is ready waits at the gate (an `on_runner_start` hook in tasks.py) until all are, so that neither the start of
Python nor a second process that comes late counts as draining.
"""

from __future__ import annotations

import os
import select
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

READY_SECONDS_MAX = 60.0
READ_BYTES = 65_536


class Wire:
    """A directory with the named pipe `reports` and the files `gate` and `held`; read whenever the benchmark waits.

    A pipe and no datagram socket: it keeps some thousand lines before a sender has to wait, a socket ten.
    """

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="pgqueue-wire-")
        self.directory = Path(self._home.name)
        path = self.directory / "reports"
        os.mkfifo(path)
        # Open for writing too, so that it does not end when the first runner does.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._begun = b""
        self.reports: list[list[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._pipe)
        self._home.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        return {"BENCH_DIRECTORY": str(self.directory)}

    @property
    def ready_pids(self) -> list[int]:
        """The processes that run tasks, in the order in which they came to the gate."""
        return [int(report[1]) for report in self.reports if report[0] == "ready"]

    def told(self, kind: str) -> list[list[str]]:
        """What was reported of this kind, without the kind."""
        return [report[1:] for report in self.reports if report[0] == kind]

    def open(self) -> None:
        """Let everybody through, now and later."""
        (self.directory / "gate").touch()

    def hold(self) -> None:
        """Tasks of the type `held` run on from now."""
        (self.directory / "held").touch()

    def let_go(self) -> None:
        """Tasks of the type `held` end."""
        (self.directory / "held").unlink(missing_ok=True)

    def wait_ready(self, count: int, check: Callable[[], None]) -> None:
        """Until so many runners are at the gate. `check` raises when they cannot come."""
        self.wait(lambda: len(self.ready_pids) >= count, READY_SECONDS_MAX, f"{count} runners at the gate", check)

    def wait(self, condition: Callable[[], bool], seconds: float, what: str, check: Callable[[], None] = lambda: None) -> None:
        """Read until the condition holds. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"there was no {what} within {seconds:g} s")
            check()
            self.read(0.05)

    def idle(self) -> None:
        """Take in what comes for a moment."""
        self.read(0.05)

    def read(self, seconds: float = 0.0) -> None:
        """Take in what has come; wait for the first for so long."""
        if not select.select([self._pipe], [], [], seconds)[0]:
            return
        *lines, self._begun = (self._begun + os.read(self._pipe, READ_BYTES)).split(b"\n")
        self.reports += [line.decode().split() for line in lines]
