"""Scheduler processes, as they are deployed: many of them, killed at any point, and each slot decided exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import Queue, Schedule, Task, task
from pgqueue.scheduler import configured_modules, covers
from tests.conftest import wait_until

Connection = psycopg.Connection[Any]
Start = Callable[..., "Program"]

TASKS = """
import asyncio
from pgqueue import Task, task

class Noted(Task):
    async def run(self):
        pass

@task(frequency=0.2, missed="all")
class Every(Noted): ...

@task(frequency=0.2)
class Latest(Noted): ...

@task(frequency="250ms", unique=True)
class Single(Noted): ...

@task(frequency=0.2, unique=True, missed="all")
class Slow(Noted):
    async def run(self):
        await asyncio.sleep(0.5)
"""
NAMES = ("every", "latest", "single", "slow")


@dataclass(frozen=True, slots=True)
class Program:
    """A process, and the file that it logs to: a pipe that nobody reads would stop it."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.said() or self.process.poll() is not None, timeout=20)
        assert text in self.said()

    def ends_with(self, code: int) -> None:
        assert self.process.wait(timeout=20) == code, self.said()
        assert "Traceback" not in self.said(), self.said()


@pytest.fixture
def start(tmp_path: Path, migrated_database: str) -> Iterator[Start]:
    """`start("scheduler", "--name", "a")`: a process of the project in tmp_path. Whatever still runs is killed at the end."""
    (tmp_path / "recurring_tasks.py").write_text(TASKS)
    programs: list[Program] = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PGQUEUE_", "DATABASE_"))}

    def start(program: str, *flags: str, dsn: str = migrated_database, **variables: str) -> Program:
        command = [sys.executable, "-m", f"pgqueue.{program}", "--tasks", "recurring_tasks", *flags]
        log = tmp_path / f"{len(programs)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=tmp_path, env={**environment, "DATABASE_URL": dsn, **variables}, stderr=file)
        programs.append(Program(process, log))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()


def decided_count(connection: Connection, name: str) -> int:
    row = connection.execute(
        "SELECT coalesce(sum(fired_count + skipped_count), 0) FROM pgqueue.schedule WHERE name = %s", (name,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def check_slots(connection: Connection, name: str) -> int:
    """Each slot on the grid has one outcome, the counters agree, and each that fired has one task. Returns how many fired."""
    row = connection.execute(
        "SELECT frequency, next_run_at, fired_count, skipped_count FROM pgqueue.schedule WHERE name = %s", (name,)
    ).fetchone()
    assert row is not None
    frequency, next_run_at, fired_count, skipped_count = row
    slots = connection.execute(
        "SELECT slot_at, task_id FROM pgqueue.schedule_slot JOIN pgqueue.schedule ON schedule.id = schedule_id"
        " WHERE name = %s ORDER BY slot_at",
        (name,),
    ).fetchall()
    fired = [task_id for _, task_id in slots if task_id is not None]
    assert [slot_at for slot_at, _ in slots] == [next_run_at - (len(slots) - number) * frequency for number in range(len(slots))]
    assert (fired_count, skipped_count) == (len(fired), len(slots) - len(fired))
    assert task_ids(connection, name) == sorted(fired)
    return len(fired)


def task_ids(connection: Connection, name: str) -> list[Any]:
    rows = connection.execute(
        "SELECT id FROM pgqueue.task WHERE headers ->> 'schedule' = %(name)s"
        " UNION ALL SELECT id FROM pgqueue.history WHERE headers ->> 'schedule' = %(name)s ORDER BY id",
        {"name": name},
    ).fetchall()
    return [row[0] for row in rows]


def end(program: Program) -> None:
    """SIGTERM, and it leaves in order."""
    program.process.terminate()
    program.ends_with(0)


def is_finished(connection: Connection) -> bool:
    return connection.execute("SELECT FROM pgqueue.task LIMIT 1").fetchone() is None


def stir(connection: Connection) -> bool:
    """Write new versions of the rows, so that some firings find another one than they saw first."""
    return connection.execute("UPDATE pgqueue.schedule SET updated_at = clock_timestamp()").rowcount >= 0


def run_fleet(start: Start, connection: Connection, *, schedulers: int, runners: int, seconds: float) -> None:
    """Let them work until that many seconds' worth of slots are decided, then stop them and check each slot."""
    fleet = [start("scheduler") for _ in range(schedulers)]
    workers = [start("runner", "--log-level", "error") for _ in range(runners)]
    wait_until(lambda: stir(connection) and decided_count(connection, "every") >= seconds / 0.2, timeout=seconds + 30)
    for scheduler in fleet:
        scheduler.wait_for("is ready")
        end(scheduler)
    wait_until(lambda: is_finished(connection), timeout=20)
    for worker in workers:
        end(worker)
    fired = {name: check_slots(connection, name) for name in NAMES}
    assert fired["every"] == decided_count(connection, "every")
    row = connection.execute("SELECT count(*) FROM pgqueue.history WHERE status = 'succeeded'").fetchone()
    assert row == (sum(fired.values()),)
    assert connection.execute("SELECT count(*) FROM pgqueue.runner").fetchone() == (0,)


def test_three_schedulers_and_a_runner_fire_every_slot_exactly_once(start: Start, connection: Connection):
    run_fleet(start, connection, schedulers=3, runners=1, seconds=5)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ten_schedulers_and_four_runners_fire_every_slot_exactly_once(start: Start, connection: Connection):
    run_fleet(start, connection, schedulers=10, runners=4, seconds=30)


def make_bounded(connection: Connection, max_runs: int) -> Callable[[], Schedule]:
    """A schedule made at run time that ends after so many; what is returned looks at it."""

    @task
    class Bounded(Task):
        def run(self) -> None: ...

    dsn = make_conninfo(connection.info.dsn, password=connection.info.password)  # which `dsn` leaves out

    def look() -> Schedule:
        with Queue(dsn) as queue:
            found = queue.schedules.get("bounded", app="test")
            assert found is not None
            return found

    with Queue(dsn) as queue:
        queue.schedules.create("bounded", Bounded, frequency=0.2, max_runs=max_runs, missed="all", app="test")
    return look


def check_bounded(connection: Connection, found: Schedule) -> None:
    """It has ended, and exactly as many slots as it may have fired, without a hole, each with its task."""
    assert (found.enabled, found.next_run_at, found.ended_reason) == (False, None, "max_runs reached")
    rows = connection.execute(
        "SELECT slot_at, task_id FROM pgqueue.schedule_slot WHERE schedule_id = %s ORDER BY slot_at", (found.id,)
    ).fetchall()
    assert (found.fired_count, found.skipped_count, len(rows)) == (found.max_runs, 0, found.max_runs)
    assert [slot_at for slot_at, _ in rows] == [rows[0][0] + number * found.frequency for number in range(len(rows))]
    assert task_ids(connection, "bounded") == sorted(task_id for _, task_id in rows)


def kill_repeatedly(start: Start, connection: Connection, *, kills: int, keep: int) -> None:
    """Kill schedulers at random points of their work, one after the other, beside `keep` that live."""
    bounded = make_bounded(connection, max_runs=kills * 4)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    survivors = [start("scheduler") for _ in range(keep)]
    for _ in range(kills):
        victim = start("scheduler")
        victim.wait_for("is ready")
        with pytest.raises(subprocess.TimeoutExpired):
            victim.process.wait(timeout=chance.uniform(0.0, 0.6))
        victim.process.kill()
        victim.process.wait()
    count = decided_count(connection, "every")
    last = start("scheduler")
    last.wait_for("is ready")  # before that, a signal just ends it
    wait_until(lambda: decided_count(connection, "every") > count)
    wait_until(lambda: not bounded().enabled)
    for scheduler in [*survivors, last]:
        end(scheduler)
    fired = {name: check_slots(connection, name) for name in NAMES}
    assert fired["every"] == decided_count(connection, "every") > 0
    assert fired["single"] == 1
    check_bounded(connection, bounded())


def test_a_scheduler_killed_at_random_points_loses_and_repeats_no_slot(start: Start, connection: Connection):
    kill_repeatedly(start, connection, kills=6, keep=0)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("keep", [0, 2])
def test_schedulers_killed_again_and_again_lose_and_repeat_no_slot(start: Start, connection: Connection, keep: int):
    kill_repeatedly(start, connection, kills=60, keep=keep)


# ── the door ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_signal_ends_it_with_0_also_while_it_waits_for_the_server(start: Start):
    for number in (signal.SIGTERM, signal.SIGINT):
        scheduler = start("scheduler")
        scheduler.wait_for("is ready")
        scheduler.process.send_signal(number)
        scheduler.ends_with(0)
    waiting = start("scheduler", dsn="postgresql://nobody@127.0.0.1:1/nothing")
    waiting.wait_for("waiting for PostgreSQL")
    end(waiting)


def test_a_server_that_does_not_come_is_said_in_one_line_more(start: Start):
    scheduler = start("scheduler", dsn="postgresql://nobody@127.0.0.1:1/nothing", PGQUEUE_CONNECT_TIMEOUT="300ms")
    scheduler.ends_with(2)
    waiting, refusal = scheduler.said().splitlines()
    assert "waiting for PostgreSQL (for up to 0.3 s)" in waiting
    assert refusal.startswith("pgqueue: PostgreSQL cannot be reached")


@pytest.mark.parametrize(
    ("dsn", "flags", "reason"),
    [
        ("mysql://root@localhost/test", [], "DATABASE_URL starts with mysql://"),
        ("postgresql://localhost/test?nonsense=1", [], "DATABASE_URL is not a PostgreSQL address"),
        (None, [], "pgqueue migrate"),
        ("postgresql://localhost/test", ["--heartbeat", "20s"], "heartbeat"),
        ("postgresql://localhost/test", ["--tasks", "nowhere"], "nowhere"),
    ],
)
def test_what_it_cannot_work_with_is_one_line_and_exit_code_2(
    start: Start, empty_database: str, dsn: str | None, flags: list[str], reason: str
):
    scheduler = start("scheduler", *flags, dsn=dsn or empty_database)
    scheduler.ends_with(2)
    [line] = scheduler.said().splitlines()
    assert reason in line


@pytest.mark.parametrize(
    ("modules", "configured", "is_all"),
    [
        (["app.tasks"], [], True),
        (["app.tasks"], ["app.tasks"], True),
        (["app"], ["app.tasks", "app.mail"], True),
        (["app.mail"], ["app.tasks", "app.mail"], False),
        (["app.tasks.mail"], ["app.tasks"], False),
        (["app"], ["apple"], False),
        ([], [], True),
    ],
)
def test_a_tasks_flag_that_names_less_than_the_settings_does_not_speak_for_the_app(
    modules: list[str], configured: list[str], is_all: bool
):
    assert covers(modules, configured) is is_all


def test_the_modules_of_an_app_are_those_that_the_settings_name_without_the_flag(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGQUEUE_TASKS", "app.tasks,app.mail")
    assert configured_modules(Namespace(tasks=["app.mail"])) == ["app.tasks", "app.mail"]
