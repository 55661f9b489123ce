"""A supervisor and its children: who beats, who is killed, who pays for a crash, and how it all ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import Queue, Status, registry
from tests.conftest import wait_until
from tests.programs import effects, hazards
from tests.programs.process import RunnerProcess, runner_process

Row = psycopg.Connection[Any]
Start = Callable[..., RunnerProcess]
SUBREAPER = [
    sys.executable,
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])",
]


@pytest.fixture
def start(migrated_database: str, tmp_path: Path, connection: Row) -> Iterator[Start]:
    """`start("--drain")`: a runner process on the test's database."""
    connection.execute(effects.TABLE)
    for value in (*vars(hazards).values(), *vars(effects).values()):
        task_type = getattr(value, "__task_type__", None)
        if task_type is not None:
            registry.add(task_type)
    with ExitStack() as stack:
        count = iter(range(100))
        yield lambda *flags, tasks="tests.programs.hazards", **more: stack.enter_context(
            runner_process(migrated_database, tmp_path / f"runner{next(count)}.log", *flags, tasks=tasks, **more)
        )


def children(connection: Row) -> list[int]:
    """The pids of the runners that are registered."""
    return [pid for (pid,) in connection.execute("SELECT pid FROM pgqueue.runner ORDER BY started_at")]


def number(connection: Row, query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def is_alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


def state_of(pid: int) -> str:
    """The letter of ps; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


STARTED = "SELECT count(*) FROM effect"
"""What has said so itself: a claim is not a start yet."""
RUNNING = "SELECT count(*) FROM pgqueue.task WHERE status = 'running'"


# ── crashes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_101_tasks_in_flight_the_one_that_crashes_its_process_dies_of_it_and_the_others_finish(
    queue: Queue, connection: Row, start: Start
) -> None:
    poison = queue.enqueue(hazards.Segfault(seconds=0.02))
    innocent = queue.enqueue_many([hazards.Innocent(seconds=0.05) for _ in range(100)])
    runner = start("--concurrency", "101", "--max-crashes", "2")
    wait_until(lambda: poison.status() is Status.DEAD, timeout=40)
    wait_until(lambda: number(connection, "SELECT count(*) FROM pgqueue.history") == 100, timeout=20)
    assert {handle.status() for handle in innocent} == {Status.SUCCEEDED}
    record = queue.get(poison)
    assert record is not None
    assert record.reason == "its process crashed 4 times, 2 of them while it ran alone"
    assert [attempt.error_type for attempt in queue.attempts(poison)] == ["ProcessCrashed"]
    # A crash spends no attempt, and nobody but the culprit had another one alone.
    assert connection.execute("SELECT DISTINCT attempt FROM pgqueue.history").fetchall() == [(1,)]
    assert number(connection, "SELECT max(crashes) FROM pgqueue.history") <= 2
    assert "signal SIGSEGV" in runner.output
    assert runner.stop() == 0


def test_drain_waits_for_suspects_too(queue: Queue, connection: Row, start: Start) -> None:
    poison, innocent = queue.enqueue(hazards.Segfault()), queue.enqueue(hazards.Innocent())
    assert start("--drain", "--max-crashes", "1").wait(40) == 0
    assert (poison.status(), innocent.status()) == (Status.DEAD, Status.SUCCEEDED)
    assert number(connection, "SELECT count(*) FROM pgqueue.runner") == 0


def test_the_tasks_of_a_killed_child_run_again_at_once_and_spend_no_attempt(queue: Queue, connection: Row, start: Start) -> None:
    # With this lease, whoever waited for a rescue would wait for too long.
    queue.enqueue_many([hazards.Innocent(seconds=1.0, marks=True) for _ in range(10)])
    runner = start("--lease", "60s", "--heartbeat", "500ms")
    wait_until(lambda: number(connection, STARTED) == 10)
    [victim] = children(connection)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: number(connection, "SELECT count(*) FROM pgqueue.task WHERE crashes = 1") == 10, timeout=3)
    wait_until(lambda: number(connection, "SELECT count(*) FROM pgqueue.history") == 10)
    assert connection.execute("SELECT DISTINCT attempt, crashes FROM pgqueue.history").fetchall() == [(1, 1)]
    assert [pid != victim for pid in children(connection)] == [True]
    assert runner.stop() == 0


def test_a_task_that_waits_in_the_buffer_has_not_crashed(queue: Queue, connection: Row, start: Start) -> None:
    queue.enqueue(hazards.MarkedSegfault(), priority=200)
    queue.enqueue_many([hazards.Innocent() for _ in range(5)])
    start("--concurrency", "1", "--max-crashes", "1")
    wait_until(lambda: number(connection, "SELECT count(*) FROM pgqueue.history") == 5, timeout=20)
    assert connection.execute("SELECT DISTINCT crashes FROM pgqueue.history").fetchall() == [(0,)]


def test_children_that_die_at_their_start_are_started_with_a_pause_that_grows(start: Start) -> None:
    runner = start(tasks="tests.programs.stillborn")
    wait_until(lambda: "starting another child in 0.8 s" in runner.output, timeout=20)
    assert re.findall(r"starting another child in ([\d.]+) s", runner.output)[:3] == ["0.2", "0.4", "0.8"]
    assert runner.stop() == 0


# ── timeouts and blocked loops ──────────────────────────────────────────────────────────────────────────────────────


def test_a_child_that_hangs_beyond_a_timeout_is_killed_and_its_attempts_count(
    queue: Queue, connection: Row, start: Start
) -> None:
    hanging = queue.enqueue(hazards.Hang())
    runner = start("--kill-grace", "300ms")
    wait_until(lambda: hanging.status() is Status.DEAD, timeout=25)
    attempts = queue.attempts(hanging)
    assert [(attempt.attempt, attempt.error_type) for attempt in attempts] == [(1, "TimeoutError"), (2, "TimeoutError")]
    assert "its process was killed" in attempts[0].error
    assert "outstayed their timeout" in runner.output
    assert number(connection, "SELECT crashes FROM pgqueue.dead_task") == 0
    assert runner.stop() == 0


def test_who_runs_beside_a_task_that_hangs_loses_nothing_but_time(queue: Queue, connection: Row, start: Start) -> None:
    beside = queue.enqueue(hazards.Innocent(seconds=0.5))
    hanging = queue.enqueue(hazards.Hang())
    start("--kill-grace", "300ms")
    wait_until(lambda: hanging.status() is Status.DEAD and beside.status() is Status.SUCCEEDED, timeout=25)
    assert connection.execute("SELECT attempt, crashes FROM pgqueue.history").fetchall() == [(1, 0)]


@pytest.mark.parametrize("kind", [hazards.HoldGil, hazards.BlockLoop])
def test_a_loop_that_stands_still_for_longer_than_the_lease_keeps_its_tasks(
    kind: Any, queue: Queue, connection: Row, start: Start
) -> None:
    short = ("--lease", "1500ms", "--heartbeat", "300ms")
    watcher = start(*short, "--queue", "none yet")
    handle = queue.enqueue(kind(seconds=4))
    runner = start(*short)
    wait_until(lambda: handle.status() is Status.SUCCEEDED, timeout=20)
    assert connection.execute("SELECT attempt, crashes FROM pgqueue.history").fetchall() == [(1, 0)]
    assert runner.output.count("does not answer") == 1
    assert "killed" not in runner.output
    assert "rescued" not in watcher.output
    assert runner.stop() == watcher.stop() == 0


# ── its end ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_children_without_a_supervisor_stop_within_the_lease(queue: Queue, connection: Row, start: Start) -> None:
    queue.enqueue(hazards.LoseSupervisor())
    runner = start("--processes", "2", "--lease", "3s")
    wait_until(lambda: number(connection, "SELECT count(*) FROM effect") == 1 and len(children(connection)) == 2)
    pids = children(connection)
    assert all(map(is_alive, pids))
    runner.signal(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, pids)), timeout=3)


def test_ctrl_c_in_a_terminal_reaches_everybody_and_lets_tasks_finish(queue: Queue, connection: Row, start: Start) -> None:
    handle = queue.enqueue(hazards.Innocent(seconds=1.0, marks=True))
    runner = start()
    wait_until(lambda: number(connection, STARTED) == 1)
    runner.signal_all(signal.SIGINT)
    assert runner.wait() == 0
    assert handle.status() is Status.SUCCEEDED
    assert "Traceback" not in runner.output
    assert number(connection, "SELECT count(*) FROM pgqueue.runner") == 0


def test_a_child_that_does_not_stop_is_killed_and_gives_back(queue: Queue, connection: Row, start: Start) -> None:
    handle = queue.enqueue(hazards.HoldGil(seconds=60))
    runner = start("--shutdown-timeout", "200ms", "--kill-grace", "300ms")
    wait_until(lambda: number(connection, RUNNING) == 1)
    runner.signal(signal.SIGTERM)
    assert runner.wait() == 0
    row = connection.execute("SELECT status::text, attempt, crashes FROM pgqueue.task WHERE id = %s", (handle.id,)).fetchone()
    assert row == ("ready", 0, 0)


def test_sigterm_to_a_child_alone_stops_it_in_order_and_another_takes_its_place(
    queue: Queue, connection: Row, start: Start
) -> None:
    handle = queue.enqueue(hazards.Innocent(seconds=1.0, marks=True))
    runner = start()
    wait_until(lambda: number(connection, STARTED) == 1)
    [first] = children(connection)
    os.kill(first, signal.SIGTERM)
    wait_until(lambda: children(connection) not in ([], [first]))
    assert handle.result(timeout=10) == first
    assert queue.enqueue(hazards.Innocent()).result(timeout=10) != first
    assert runner.stop() == 0


def test_what_keeps_children_from_working_is_said_once_in_one_line(empty_database: str, tmp_path: Path, start: Start) -> None:
    for flags in (["--type", "nothing"], ["--dsn", empty_database], ["--tasks", "tests.programs.absent"]):
        runner = start("--processes", "3", *flags)
        assert runner.wait() == 2
        assert len(runner.output.splitlines()) == 1, runner.output


def test_a_hook_that_fails_at_the_first_start_ends_the_program(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAZARDS_FAIL_AT_START", "1")
    runner = start()
    assert runner.wait() == 2
    assert runner.output.splitlines()[-1] == "pgqueue: the runner could not start: ValueError: the hook failed"


# ── recycling ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_child_is_replaced_after_so_many_tasks(queue: Queue, connection: Row, start: Start) -> None:
    runner = start("--max-tasks-per-process", "10", "--concurrency", "1")
    pids = [queue.enqueue(hazards.Innocent()).result(timeout=10) for _ in range(10)]
    wait_until(lambda: "after 10 tasks" in runner.output)
    pids += [queue.enqueue(hazards.Innocent()).result(timeout=10) for _ in range(5)]
    wait_until(lambda: len(children(connection)) == 1)
    counts = Counter(pids)
    assert len(counts) == 2
    assert max(counts.values()) < 15
    assert runner.stop() == 0


def test_a_child_that_takes_up_too_much_memory_is_replaced_and_finishes_what_it_runs(
    queue: Queue, connection: Row, start: Start
) -> None:
    long = queue.enqueue(hazards.Innocent(seconds=2.0))
    runner = start("--max-memory", "300MB")
    first = queue.enqueue(hazards.Hoard(megabytes=300)).result(timeout=10)
    wait_until(lambda: "which takes up" in runner.output)
    wait_until(lambda: queue.enqueue(hazards.Innocent()).result(timeout=10) != first)
    assert long.result(timeout=10) == first
    wait_until(lambda: children(connection) != [] and first not in children(connection))
    assert runner.stop() == 0


# ── in a container ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="subreapers are Linux's")
def test_orphans_that_come_to_the_supervisor_are_reaped(queue: Queue, start: Start) -> None:
    runner = start(wrapper=SUBREAPER)
    orphans = [queue.enqueue(hazards.Orphan()).result(timeout=15) for _ in range(3)]
    wait_until(lambda: [state_of(pid) for pid in orphans] == ["", "", ""])
    assert runner.stop() == 0


def test_as_the_first_process_of_a_container_it_stops_and_reaps(queue: Queue, start: Start) -> None:
    unshare = shutil.which("unshare")
    namespace = [unshare or "", "--pid", "--fork", "--kill-child"]
    if unshare is None or subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("there is no namespace to be had")
    runner = start(wrapper=namespace)
    assert queue.enqueue(hazards.Orphan()).result(timeout=15) > 0
    # unshare passes no signal on: its child is the supervisor.
    first = wait_until(lambda: Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split())[0]
    os.kill(int(first), signal.SIGTERM)
    assert runner.wait() == 0
