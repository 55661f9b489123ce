"""Runner processes for tests: `python -m pgqueue.runner`, as a user would start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class RunnerProcess:
    """One runner, in a process group of its own, and what it logged."""

    def __init__(
        self, dsn: str, log: Path, *flags: str, tasks: str = "tests.programs.effects", wrapper: Sequence[str] = ()
    ) -> None:
        self._log = log
        quick = ["--lease", "3s", "--heartbeat", "500ms", "--poll-interval", "50ms"]
        command = [sys.executable, "-m", "pgqueue.runner", "--dsn", dsn, "--tasks", tasks, *quick, *flags]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*wrapper, *command],
                cwd=ROOT,
                stdout=out,
                stderr=out,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """To the supervisor alone."""
        self.process.send_signal(number)

    def signal_all(self, number: int) -> None:
        """To the supervisor, its children and theirs, as a terminal does, or the end of a machine."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass  # nobody is left

    def wait(self, timeout: float = 15.0) -> int:
        """Its exit code; fails with what it logged when it does not end."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the runner did not end within {timeout} s:\n{self.output[-3000:]}") from None

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()


@contextmanager
def runner_process(dsn: str, log: Path, *flags: str, **more: Any) -> Iterator[RunnerProcess]:
    """A runner that is killed at the end of the block, with its children, should it still run."""
    process = RunnerProcess(dsn, log, *flags, **more)
    try:
        yield process
    finally:
        process.signal_all(signal.SIGKILL)
        process.process.wait(10)
