"""The programs under test, as a user would start them. Each leads a session of its own, which ends with the measurement."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ground import ROOT, Ground
from benchmarks.wire import Wire

STOP_SECONDS_MAX = 20.0
NONE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Program:
    """One program; what it logs is shown when it fails."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raise if it has ended with an error."""
        if self.process.poll() not in (None, 0):
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.returncode}: {self._tail()}")

    def is_running(self) -> bool:
        self.check()
        return self.process.poll() is None

    def kill(self) -> None:
        """End it and its children with SIGKILL, all at once."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS_MAX)

    def stop(self) -> None:
        """Ask it to end; then see to it that nothing of its session is left."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(STOP_SECONDS_MAX)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace").strip()[-800:]


@contextmanager
def program(module: str, dsn: str, *flags: str, wire: Wire, settings: Mapping[str, str] = NONE) -> Iterator[Program]:
    """`python -m module` with the benchmark's tasks, on this database and with none of the user's settings but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGQUEUE_", "DATABASE_URL"))}
    command = [sys.executable, "-m", module, "--dsn", dsn, "--tasks", "benchmarks.tasks", "--log-level", "warning", *flags]
    environment = {**kept, **wire.environment, **settings}
    with tempfile.NamedTemporaryFile(prefix="pgqueue-bench-", suffix=".log") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        started = Program(process, Path(log.name))
        try:
            yield started
        finally:
            started.stop()


@contextmanager
def runners(
    ground: Ground, dsn: str, *flags: str, wire: Wire, processes: int = 1, settings: Mapping[str, str] = NONE
) -> Iterator[list[Program]]:
    """Runner processes, ready and at the gate: the children of one supervisor where the runner has `--processes`, else so many
    programs."""
    before = len(wire.ready_pids)
    with ExitStack() as stack:
        if "--processes" in ground.flags:
            each = [[*flags, "--processes", str(processes)]]
        else:
            each = [list(flags)] * processes
        started = [stack.enter_context(program("pgqueue.runner", dsn, *one, wire=wire, settings=settings)) for one in each]
        wire.wait_ready(before + processes, lambda: check(started))
        yield started


def check(started: list[Program]) -> None:
    for one in started:
        one.check()


def are_running(started: list[Program]) -> bool:
    """Whether any is. Raises when one failed, also beside another that runs."""
    check(started)
    return any(one.is_running() for one in started)


def resident_bytes(pid: int) -> int:
    """The memory of a process that is in RAM; 0 once it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def pause(seconds: float, wire: Wire, started: list[Program]) -> None:
    """Let time pass while reading what is told, and noticing who fails."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        check(started)
        wire.read(min(left, 0.05))
