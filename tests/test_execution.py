"""How attempts run: on the loop, in threads, in processes, with a context, hooks and resources."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Runner, Status, Task, hooks, on_runner_start, on_runner_stop, task
from pgqueue.settings import Settings
from pgqueue.threads import Threads
from tests.conftest import eventually
from tests.programs import work

Drain = Callable[..., Awaitable[Runner]]
Row = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def own_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks that a test registers are gone after it."""
    monkeypatch.setattr(hooks, "_on_start", [])
    monkeypatch.setattr(hooks, "_on_stop", [])


# ── kinds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_async_tasks_run_on_the_loop_and_sync_ones_in_threads(queue: Queue, drain: Drain) -> None:
    @task
    class OnLoop(Task[int]):
        async def run(self) -> int:
            return threading.get_ident()

    @task
    class InThread(Task[int]):
        def run(self) -> int:
            return threading.get_ident()

    on_loop, in_thread = queue.enqueue(OnLoop()), queue.enqueue(InThread())
    await drain()
    assert on_loop.result(timeout=1) == threading.get_ident() != in_thread.result(timeout=1)


@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize("concurrency", [1, 3, 8])
async def test_as_many_run_at_a_time_as_there_are_slots_never_more(
    concurrency: int, kind: str, queue: Queue, drain: Drain
) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def enter(change: int) -> None:
        nonlocal running, most
        with lock:
            running += change
            most = max(most, running)

    if kind == "async":

        @task(name="busy")
        class Busy(Task):
            async def run(self) -> None:
                enter(1)
                await asyncio.sleep(0.01)
                enter(-1)

    else:

        @task(name="busy")
        class BusyThread(Task):
            def run(self) -> None:
                enter(1)
                time.sleep(0.01)
                enter(-1)

    for _ in range(40):
        queue.enqueue_by_name("busy")
    await drain(concurrency=concurrency)
    assert most == concurrency


async def test_each_attempt_has_a_fresh_context_of_variables(queue: Queue, drain: Drain) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="fresh")
    seen: list[str] = []

    @task
    class OnLoop(Task):
        async def run(self) -> None:
            seen.append(variable.get())
            variable.set("stale")

    @task
    class InThread(Task):
        def run(self) -> None:
            seen.append(variable.get())
            variable.set("stale")

    for _ in range(5):
        queue.enqueue(OnLoop())
        queue.enqueue(InThread())
    token = variable.set("of the runner's starter")
    await drain(concurrency=1)
    variable.reset(token)
    assert seen == ["fresh"] * 10


async def test_a_sync_task_that_blocks_holds_up_no_async_one(queue: Queue, drain: Drain) -> None:
    released = threading.Event()

    @task
    class Blocking(Task[bool]):
        def run(self) -> bool:
            return released.wait(10)

    @task
    class Quick(Task):
        async def run(self) -> None:
            released.set()

    blocking = queue.enqueue(Blocking(), priority=200)
    queue.enqueue(Quick())
    await drain(concurrency=2)
    assert blocking.result(timeout=1) is True


async def test_threads_are_reused(queue: Queue, drain: Drain) -> None:
    names: list[str] = []

    @task
    class InThread(Task):
        def run(self) -> None:
            names.append(threading.current_thread().name)

    queue.enqueue_many([InThread() for _ in range(100)])
    await drain(concurrency=3)
    assert len(names) == 100
    assert len(set(names)) <= 3


async def test_jobs_start_at_once_while_there_are_threads_left() -> None:
    """An idle thread that has just taken a job must not pass for idle: the next job would wait behind that one."""
    threads = Threads(3)
    try:
        for _ in range(300):
            barrier = threading.Barrier(3)
            await asyncio.wait_for(asyncio.gather(*(threads.run(lambda barrier=barrier: barrier.wait(5)) for _ in range(3))), 5)  # type: ignore[misc]
        assert threads.thread_count == 3
    finally:
        threads.close()


async def test_an_abandoned_thread_makes_room_for_another() -> None:
    threads, release = Threads(1), threading.Event()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(threads.run(lambda: release.wait(10)), 0.02)
        assert await asyncio.wait_for(threads.run(lambda: "ran"), 5) == "ran"
    finally:
        release.set()
        threads.close()


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_in_a_process_gives_its_result_also_if_it_is_async_or_large(queue: Queue, drain: Drain) -> None:
    work.register()
    text = "ä" * 300_000
    square, later, large = (
        queue.enqueue(work.Square(number=12)),
        queue.enqueue(work.SquareLater(number=5)),
        queue.enqueue(work.Large(text=text)),
    )
    await drain(concurrency=2)
    assert (square.result(timeout=1), later.result(timeout=1), large.result(timeout=1)) == (144, 25, text.upper())


async def test_a_failure_in_a_process_is_decided_about_over_there(queue: Queue, drain: Drain) -> None:
    work.register()
    handle, unstorable = queue.enqueue(work.FailTwice()), queue.enqueue(work.Unstorable())
    deadline = time.monotonic() + 20
    while handle.status() is not Status.SUCCEEDED and time.monotonic() < deadline:
        await drain()
    assert [attempt.error for attempt in queue.attempts(handle)] == ["attempt 1", "attempt 2"]
    trace = queue.attempts(handle)[0].traceback
    assert trace is not None
    assert "pgqueue/processes.py" not in trace
    assert unstorable.status() is Status.DEAD


async def test_a_process_that_is_killed_is_a_failed_attempt_naming_the_signal_and_the_next_task_runs(
    queue: Queue, drain: Drain
) -> None:
    work.register()
    killed = queue.enqueue(work.KillItself(), priority=200)
    odd = queue.enqueue(work.KillItself(number=40), priority=190)
    left = queue.enqueue(work.Exit(), priority=180)
    raised = queue.enqueue(work.Raise(), priority=170)
    fine = queue.enqueue(work.Square(number=2))
    await drain(concurrency=1)
    errors = [queue.attempts(handle)[0].error for handle in (killed, odd, left, raised)]
    assert errors == [
        "the process of kill-itself ended with signal SIGKILL",
        "the process of kill-itself ended with signal 40",
        "the process of exit ended with exit code 7",
        "3",
    ]
    assert fine.result(timeout=1) == 4


async def test_a_process_that_the_system_killed_while_idle_costs_no_task_its_attempt(
    queue: Queue, settings: Settings, migrated_database: str
) -> None:
    work.register()
    async with Runner(AsyncQueue(migrated_database, settings=settings), concurrency=1):
        first = queue.enqueue(work.Describe())
        pid = (await asyncio.to_thread(first.result, 10))["pid"]
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not _is_running(pid))
        second = queue.enqueue(work.Describe())
        assert (await asyncio.to_thread(second.result, 10))["pid"] != pid
    assert queue.attempts(second) == []


def _is_running(pid: int) -> bool:
    """A zombie does not run, though nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("way", ["cancel", "timeout"])
async def test_a_process_task_that_must_stop_is_killed(
    way: str, queue: Queue, settings: Settings, migrated_database: str, tmp_path: Path
) -> None:
    work.register()
    path = tmp_path / "pid"
    handle = queue.enqueue(work.Hold(path=str(path)), **({"timeout": timedelta(seconds=2)} if way == "timeout" else {}))  # type: ignore[arg-type]
    async with Runner(AsyncQueue(migrated_database, settings=settings)):
        await eventually(path.exists)
        pid = int(path.read_text())
        if way == "cancel":
            assert handle.cancel()
        await eventually(lambda: handle.status() is (Status.CANCELLED if way == "cancel" else Status.DEAD))
    assert not _is_running(pid)


async def test_a_process_task_has_a_context_and_enqueues_from_inside(queue: Queue, drain: Drain) -> None:
    work.register()
    handle = queue.enqueue(work.Describe(), queue="other")
    runner = await drain()
    described = handle.result(timeout=1)
    assert described.pop("pid") != os.getpid()
    assert described == {
        "task_id": str(handle.id), "attempt": 1, "queue": "other", "type": "describe", "runner_id": str(runner.id), "cancelled": False,
    }  # fmt: skip
    assert [record.type for record in queue.list(type="square")] == ["square"]


# ── context ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_running_task_knows_who_where_when_and_by_whom(queue: Queue, drain: Drain, connection: Row) -> None:
    seen: dict[str, Any] = {}

    @task
    class Curious(Task):
        async def run(self) -> None:
            context = self.context
            names = (
                "task_id",
                "claim_id",
                "attempt",
                "type",
                "queue_name",
                "scheduled_at",
                "started_at",
                "runner_id",
                "cancelled",
                "error",
            )
            seen.update({name: getattr(context, name) for name in names})

    at = datetime.now(UTC) - timedelta(minutes=5)
    handle = queue.enqueue(Curious(), queue="somewhere", at=at)
    runner = await drain()
    row = connection.execute("SELECT claim_id, started_at FROM pgqueue.history").fetchone()
    assert row is not None
    assert seen == {
        "task_id": handle.id, "claim_id": row[0], "attempt": 1, "type": "curious", "queue_name": "somewhere", "scheduled_at": at,
        "started_at": row[1], "runner_id": runner.id, "cancelled": False, "error": None,
    }  # fmt: skip


async def test_tasks_enqueue_more_tasks_each_with_a_client_of_its_kind(queue: Queue, drain: Drain) -> None:
    ran: list[str] = []

    @task
    class Child(Task):
        parent: str

        async def run(self) -> None:
            ran.append(self.parent)

    @task
    class AsyncParent(Task):
        async def run(self) -> None:
            await self.context.queue.enqueue(Child(parent="async, context"))
            await Child(parent="async, shortcut").enqueue()

    @task
    class SyncParent(Task):
        def run(self) -> None:
            self.context.queue.enqueue(Child(parent="sync, context"))
            Child(parent="sync, shortcut").enqueue()

    queue.enqueue(AsyncParent())
    queue.enqueue(SyncParent())
    await drain()
    assert sorted(ran) == ["async, context", "async, shortcut", "sync, context", "sync, shortcut"]


# ── hooks and resources ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_hooks_run_once_a_runner_in_order_and_their_resources_reach_the_tasks(queue: Queue, drain: Drain) -> None:
    events: list[str] = []

    @on_runner_start
    def first(resources: dict[str, Any]) -> None:
        events.append("start 1")
        resources["model"] = "loaded"

    @on_runner_start
    async def second(resources: dict[str, Any]) -> None:
        events.append(f"start 2 sees {resources['model']}")

    @on_runner_stop
    async def close_last(resources: dict[str, Any]) -> None:
        events.append(f"stop 1 sees {resources['model']}")

    @on_runner_stop
    def close_first(resources: dict[str, Any]) -> None:
        events.append("stop 2")
        raise RuntimeError("a stop hook that fails stops nothing")

    @task
    class Use(Task):
        async def run(self) -> None:
            events.append(f"async {self.context.resources['model']}")

    @task
    class UseInThread(Task):
        def run(self) -> None:
            events.append(f"thread {self.context.resources['model']}")

    queue.enqueue(Use())
    queue.enqueue(UseInThread())
    await drain(concurrency=1)
    assert events == ["start 1", "start 2 sees loaded", "async loaded", "thread loaded", "stop 2", "stop 1 sees loaded"]


async def test_a_start_hook_that_raises_stops_the_start_and_nothing_is_claimed(
    queue: Queue, settings: Settings, migrated_database: str
) -> None:
    @on_runner_start
    async def refuse(resources: dict[str, Any]) -> None:
        raise LookupError("no licence")

    @task
    class Never(Task):
        async def run(self) -> None: ...

    handle = queue.enqueue(Never())
    runner = Runner(AsyncQueue(migrated_database, settings=settings))
    with pytest.raises(LookupError, match="no licence"):
        async with runner:
            pass
    await runner.stop()
    assert handle.status() is Status.READY
    with psycopg.connect(migrated_database) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgqueue %'"
        ).fetchone() == (0,)


async def test_two_runners_with_the_same_types_start_one_after_the_other(
    queue: Queue, settings: Settings, migrated_database: str
) -> None:
    @task
    class Shared(Task):
        """Its title."""

        async def run(self) -> None: ...

    async with Runner(AsyncQueue(migrated_database, settings=settings)), Runner(AsyncQueue(migrated_database, settings=settings)):
        handle = queue.enqueue(Shared())
        await eventually(lambda: handle.status() is Status.SUCCEEDED)
