"""The examples work as they stand, and when they are copied elsewhere."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

from pgqueue import Queue, Runner
from pgqueue.registry import registry

EXAMPLES = Path(__file__).parents[1] / "examples"
DEADLINE_SECONDS = 40


@pytest.fixture
def tasks() -> ModuleType:
    """The module, registered anew: another test may have imported it before."""
    return importlib.reload(importlib.import_module("examples.tasks"))


def test_the_examples_declare_what_they_promise(tasks: ModuleType) -> None:
    health, report = registry.get("HealthCheck"), registry.get("DailyReport")
    assert (health.priority, health.unique is not None) == (200, True)
    assert health.recurrence is not None
    assert health.recurrence.describe() == "every 5 s"
    assert report.recurrence is not None
    assert report.recurrence.describe() == "every 1 d"
    assert tasks.HealthCheck().next_try() == timedelta(minutes=1)


async def test_the_example_tasks_run(tasks: ModuleType, queue: Queue, drain: Callable[..., Awaitable[Runner]]) -> None:
    email = queue.enqueue(tasks.SendEmail(to="ann@example.com", subject="Welcome"))
    data = queue.enqueue(tasks.ProcessData(dataset="orders", rows=7))
    report = queue.enqueue(tasks.DailyReport())
    await drain()
    assert email.result(timeout=0).to == "ann@example.com"
    assert data.result(timeout=0) == 7
    assert report.result(timeout=0).startswith("Daily report")


def test_one_health_check_in_ten_fails_and_is_tried_again_in_a_minute(
    tasks: ModuleType, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.random, "random", lambda: 0.05)
    with pytest.raises(tasks.Unhealthy, match="503"):
        queue.run_now(tasks.HealthCheck())
    monkeypatch.setattr(tasks.random, "random", lambda: 0.15)
    queue.run_now(tasks.HealthCheck())


def test_the_examples_work_when_copied_elsewhere(tmp_path: Path, migrated_database: str) -> None:
    for name in ("tasks.py", "enqueue.py"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    environment = os.environ | {"DATABASE_URL": migrated_database}
    runner = subprocess.Popen(
        [sys.executable, "-m", "pgqueue.runner", "--log-level", "error"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        done = subprocess.run(
            [sys.executable, "enqueue.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    finally:
        runner.terminate()
        _, log = runner.communicate(timeout=DEADLINE_SECONDS)
    assert (done.returncode, done.stderr, log) == (0, "", "")
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == ["sent", "processed", "ordered,"]
    assert runner.returncode == 0
