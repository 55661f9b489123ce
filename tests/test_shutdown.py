"""How a runner ends: by signals, drained, and as an object."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, PgQueueError, Queue, Runner, Status, Task, TaskHandle, registry, task
from pgqueue.settings import Settings
from tests.conftest import eventually, wait_until
from tests.programs import effects
from tests.programs.process import RunnerProcess, runner_process

Drain = Callable[..., Awaitable[Runner]]
Row = psycopg.Connection[Any]
Start = Callable[..., RunnerProcess]


@pytest.fixture
def start(migrated_database: str, tmp_path: Path, connection: Row) -> Iterator[Start]:
    """`start("--drain")`: a runner process on the test's database."""
    connection.execute(effects.TABLE)
    for value in vars(effects).values():
        task_type = getattr(value, "__task_type__", None)
        if task_type is not None:
            registry.add(task_type)
    with ExitStack() as stack:
        count = iter(range(100))
        yield lambda *flags: stack.enter_context(runner_process(migrated_database, tmp_path / f"runner{next(count)}.log", *flags))


def row_of(connection: Row, handle: TaskHandle[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(
        "SELECT status::text, attempt, crashes, maturity_at FROM pgqueue.task WHERE id = %s", (handle.id,)
    ).fetchone()
    assert row is not None
    return row


def running_now(connection: Row) -> int:
    row = connection.execute("SELECT count(*) FROM effect").fetchone()
    assert row is not None
    return int(row[0])


# ── signals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_runs_gives_back_the_rest_and_exits_0(
    number: int, queue: Queue, connection: Row, start: Start
) -> None:
    running = queue.enqueue(effects.Mark(seconds=1.0), priority=200)
    waiting = [queue.enqueue(effects.Mark(seconds=0)) for _ in range(20)]
    before = [row_of(connection, handle) for handle in waiting]
    runner = start("--concurrency", "1")
    wait_until(lambda: running_now(connection) == 1)
    runner.signal(number)
    assert runner.wait() == 0, runner.output
    assert running.status() is Status.SUCCEEDED
    # Attempt refunded, and the place in line kept.
    assert [row_of(connection, handle) for handle in waiting] == before
    assert connection.execute("SELECT count(*) FROM pgqueue.runner").fetchone() == (0,)


def test_after_the_shutdown_timeout_what_runs_is_interrupted_and_goes_back_without_spending_an_attempt(
    queue: Queue, connection: Row, start: Start
) -> None:
    handles = [queue.enqueue(effects.Mark()), queue.enqueue(effects.Blocking())]
    before = [row_of(connection, handle) for handle in handles]
    runner = start("--shutdown-timeout", "200ms")
    wait_until(lambda: running_now(connection) == 2)
    runner.signal(signal.SIGTERM)
    assert runner.wait() == 0, runner.output
    assert [row_of(connection, handle) for handle in handles] == before
    assert connection.execute("SELECT count(*) FROM pgqueue.attempt").fetchone() == (0,)


def test_a_second_signal_stops_at_once(queue: Queue, connection: Row, start: Start) -> None:
    handle = queue.enqueue(effects.Mark())
    runner = start("--shutdown-timeout", "60s")
    wait_until(lambda: running_now(connection) == 1)
    runner.signal(signal.SIGTERM)
    wait_until(lambda: "a second signal" in runner.output)
    runner.signal(signal.SIGTERM)
    assert runner.wait(10) == 0, runner.output
    assert row_of(connection, handle)[:2] == ("ready", 0)


@pytest.mark.slow
def test_a_task_that_swallows_its_interruption_does_not_keep_the_process(queue: Queue, connection: Row, start: Start) -> None:
    queue.enqueue(effects.Stubborn())
    runner = start("--shutdown-timeout", "200ms")
    wait_until(lambda: running_now(connection) == 1)
    runner.signal(signal.SIGTERM)
    assert runner.wait(40) == 0, runner.output


@pytest.mark.parametrize(("own", "name"), [(False, "asyncio_"), (True, "own_0")], ids=["to_thread", "own pool"])
def test_a_thread_of_user_code_that_never_ends_does_not_keep_the_process(
    own: bool, name: str, queue: Queue, connection: Row, start: Start
) -> None:
    handle = queue.enqueue(effects.BlockingElsewhere(own=own))
    runner = start("--shutdown-timeout", "100ms")
    wait_until(lambda: running_now(connection) == 1)
    runner.signal(signal.SIGTERM)
    assert runner.wait(20) == 0, runner.output
    assert f"threads of user code do not end ({name}" in runner.output
    assert row_of(connection, handle)[:2] == ("ready", 0)


def test_what_a_background_task_of_user_code_raises_never_ends_the_runner(queue: Queue, start: Start) -> None:
    first, second = queue.enqueue(effects.ExitInBackground()), queue.enqueue(effects.Plain(number=5))
    runner = start("--concurrency", "1")
    assert (first.result(timeout=10), second.result(timeout=10)) == ("survived", 5)
    assert "SystemExit was raised by a background task of user code" in runner.output
    assert runner.stop() == 0


# ── run until empty ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_drain_runs_what_is_there_and_exits_0(queue: Queue, start: Start) -> None:
    handles = queue.enqueue_many([effects.Plain(number=number) for number in range(500)])
    elsewhere = queue.enqueue(effects.Plain(number=-1), queue="elsewhere")
    runner = start("--drain")
    assert runner.wait() == 0, runner.output
    assert {handle.status() for handle in [*handles, elsewhere]} == {Status.SUCCEEDED}


def test_drain_of_an_empty_queue_ends_at_once(start: Start) -> None:
    assert start("--drain").wait() == 0


async def test_drain_waits_for_what_another_runner_runs(
    queue: Queue, settings: Settings, migrated_database: str, drain: Drain, connection: Row
) -> None:
    release, started = asyncio.Event(), asyncio.Event()

    @task
    class Held(Task):
        async def run(self) -> None:
            started.set()
            await release.wait()

    handle = queue.enqueue(Held())
    async with Runner(AsyncQueue(migrated_database, settings=settings)):
        await started.wait()
        draining = asyncio.ensure_future(drain())
        # It beats at its start, then every half a second, and asks many times between two beats whether anything is left.
        beaten_twice = "SELECT count(*) FROM pgqueue.runner WHERE heartbeat_at > started_at + interval '400 ms'"
        await eventually(lambda: draining.done() or connection.execute(beaten_twice).fetchone() == (2,))
        assert not draining.done()
        release.set()
        await draining
    assert handle.status() is Status.SUCCEEDED


# ── the object ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def runner(migrated_database: str, settings: Settings) -> AsyncIterator[Runner]:
    @task
    class Quick(Task):
        fails: bool = False

        async def run(self) -> None:
            if self.fails:
                raise ValueError

    runner = Runner(AsyncQueue(migrated_database, settings=settings), name="mine", concurrency=3)
    yield runner
    await runner.stop(timeout=0)  # whatever became of the test: a heart that beats on would disturb the next one


async def test_stats_say_who_it_is_and_what_it_did(queue: Queue, runner: Runner) -> None:
    new = runner.stats()
    assert (new.status, new.name, new.active, new.processed, new.failed, new.uptime) == ("new", "mine", 0, 0, 0, 0.0)
    async with runner:
        for fails in (False, False, True):
            queue.enqueue_by_name("quick", {"fails": fails})
        await eventually(lambda: runner.stats().processed == 3)
        stats = runner.stats()
        assert (stats.id, stats.status, stats.failed, stats.lost_leases) == (runner.id, "running", 1, 0)
        assert stats.uptime > 0
    assert runner.stats().status == "stopped"


async def test_a_paused_runner_claims_nothing_and_rests_and_a_resumed_one_really_resumes(
    queue: Queue, runner: Runner, connection: Row
) -> None:
    async with runner:
        warm_up = queue.enqueue_by_name("quick")
        await eventually(lambda: warm_up.status() is Status.SUCCEEDED)
        runner.pause()
        assert runner.stats().status == "paused"
        handle = queue.enqueue_by_name("quick")
        cpu_before, clock = time.process_time(), time.monotonic()
        while time.monotonic() - clock < 0.8:
            assert handle.status() is Status.READY
            await asyncio.sleep(0.1)
        # A loop that waits for nothing would burn all of it.
        assert time.process_time() - cpu_before < 0.4
        runner.resume()
        await eventually(lambda: handle.status() is Status.SUCCEEDED)
        assert runner.stats().status == "running"


async def test_to_stop_twice_is_harmless_and_a_shorter_timeout_hurries(
    queue: Queue, settings: Settings, migrated_database: str
) -> None:
    started = threading.Event()

    @task
    class Long(Task):
        async def run(self) -> None:
            started.set()
            await asyncio.sleep(60)

    handle = queue.enqueue(Long())
    runner = Runner(AsyncQueue(migrated_database, settings=settings))
    await runner.start()
    await eventually(started.is_set)
    patient = asyncio.create_task(runner.stop(timeout=60))
    await eventually(lambda: runner.stats().status == "stopping")
    await asyncio.wait_for(runner.stop(timeout=0), 10)
    await asyncio.wait_for(patient, 1)
    await runner.stop()
    assert (handle.status(), runner.stats().status) == (Status.READY, "stopped")


async def test_a_runner_is_started_once(runner: Runner) -> None:
    async with runner:
        with pytest.raises(PgQueueError, match="started once"):
            await runner.start()
    with pytest.raises(PgQueueError, match="started once"):
        await runner.start()


async def test_to_stop_before_or_during_the_start_leaves_nothing_running(runner: Runner, connection: Row) -> None:
    await runner.stop()
    starting = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # its first step; polling for a state that passes by could miss it
    assert runner.stats().status == "starting"
    await runner.stop()
    await asyncio.wait([starting], timeout=10)
    assert runner.stats().status == "stopped"
    await eventually(
        lambda: (
            connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgqueue %'"
            ).fetchone()
            == (0,)
        )
    )


async def test_a_start_that_was_cancelled_can_be_stopped(migrated_database: str, settings: Settings, runner: Runner) -> None:
    starting = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # its first step; polling for a state that passes by could miss it
    assert runner.stats().status == "starting"
    starting.cancel()
    await asyncio.wait([starting], timeout=10)
    await runner.stop()
    assert runner.stats().active == 0
