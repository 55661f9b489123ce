"""Runner processes for tests: `python -m pgqueue.runner`, as a user would start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


class RunnerProcess:
    """One runner and what it logged."""

    def __init__(self, dsn: str, log: Path, *flags: str, tasks: str = "tests.programs.effects") -> None:
        self._log = log
        quick = ["--lease", "3s", "--heartbeat", "500ms", "--poll-interval", "50ms"]
        command = [sys.executable, "-m", "pgqueue.runner", "--dsn", dsn, "--tasks", tasks, *quick, *flags]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=os.environ | {"PYTHONUNBUFFERED": "1"})

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

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
def runner_process(dsn: str, log: Path, *flags: str) -> Iterator[RunnerProcess]:
    """A runner that is killed at the end of the block, should it still run."""
    process = RunnerProcess(dsn, log, *flags)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
        process.process.wait(10)
