"""Cancelling what has been claimed: running on the loop, in a thread, in a process, or waiting for a slot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Retry, Runner, Snooze, Status, Task, TaskHandle, task
from pgqueue.board import Board
from pgqueue.completer import Completer, Settlement
from pgqueue.context import Claimed
from pgqueue.executor import Executor
from pgqueue.outcomes import RETURNED, Outcome
from pgqueue.prefetch import Prefetch
from pgqueue.settings import Settings
from pgqueue.slots import Slots
from pgqueue.upkeep import Upkeep
from tests.conftest import eventually
from tests.programs import work

Row = psycopg.Connection[Any]


@pytest.fixture
def running(migrated_database: str, settings: Settings) -> Callable[..., Any]:
    """`async with running():` a runner on the test's database."""

    @asynccontextmanager
    async def running(**options: Any) -> AsyncIterator[Runner]:
        async with Runner(AsyncQueue(migrated_database, settings=settings), **options) as runner:
            yield runner

    return running


def ended(queue: Queue, handle: TaskHandle[Any]) -> tuple[Status, str | None]:
    record = queue.get(handle)
    assert record is not None
    return record.status, record.reason


async def test_a_running_async_task_is_interrupted_once_and_cleans_up_in_peace(queue: Queue, running: Callable[..., Any]) -> None:
    events: list[str] = []

    @task
    class Long(Task):
        async def run(self) -> None:
            events.append("started")
            try:
                await asyncio.sleep(60)
            finally:
                # Longer than the runner's next look at what is to be cancelled.
                await asyncio.sleep(1.3)
                events.append(f"cleaned up, {self.context.cancelled}")

    handle = queue.enqueue(Long())
    async with running():
        await eventually(lambda: events)
        assert handle.cancel("wrong address") is True
        await eventually(lambda: handle.status() is Status.CANCELLED)
    assert events == ["started", "cleaned up, True"]
    assert ended(queue, handle) == (Status.CANCELLED, "wrong address")
    assert handle.cancel() is False


async def test_a_cancelled_task_that_raises_something_else_while_it_cleans_up_is_cancelled_all_the_same(
    queue: Queue, running: Callable[..., Any]
) -> None:
    started = asyncio.Event()

    @task(retry=Retry(max_attempts=5))
    class Messy(Task):
        async def run(self) -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                raise RuntimeError("the cleaning up failed")

    handle = queue.enqueue(Messy())
    async with running():
        await started.wait()
        handle.cancel()
        await eventually(lambda: handle.status() is Status.CANCELLED)
    assert ended(queue, handle) == (Status.CANCELLED, "cancelled while it ran")


@pytest.mark.parametrize("looks", [True, False], ids=["looks", "never looks"])
async def test_a_thread_is_told_and_counts_as_cancelled_only_if_it_looked(
    looks: bool, queue: Queue, running: Callable[..., Any], connection: Row
) -> None:
    started, told = threading.Event(), threading.Event()

    @task
    class Long(Task[str]):
        def run(self) -> str:
            started.set()
            if looks:
                while not self.context.cancelled:
                    told.wait(0.01)
            else:
                told.wait(10)
            return "done"

    handle = queue.enqueue(Long())
    async with running() as runner:
        await eventually(started.is_set)
        assert handle.cancel("wrong address")
        if not looks:
            await eventually(lambda: all(attempt._cancel_asked for attempt in runner._running().slots._active.values()))
            told.set()
        await eventually(lambda: handle.status() not in (Status.READY, Status.RUNNING))
    assert ended(queue, handle) == ((Status.CANCELLED, "wrong address") if looks else (Status.SUCCEEDED, None))


async def test_a_process_is_killed(queue: Queue, running: Callable[..., Any], tmp_path: Path) -> None:
    work.register()
    path = tmp_path / "pid"
    handle = queue.enqueue(work.Hold(path=str(path)))
    async with running():
        await eventually(path.exists)
        assert handle.cancel()
        await eventually(lambda: handle.status() is Status.CANCELLED)


async def test_a_claimed_task_that_waits_for_a_slot_is_cancelled_without_a_start(settings: Settings) -> None:
    started: list[str] = []

    class Stub(Executor):
        def __init__(self) -> None: ...

        def begin(self, attempt: Any) -> None:
            started.append(attempt.claimed.id)
            attempt.rest = self.wait()

        async def wait(self) -> Outcome:
            await asyncio.sleep(60)
            return RETURNED

        def escaped(self, attempt: Any, error: BaseException) -> Outcome:
            return RETURNED

    class Collect(Completer):
        def __init__(self) -> None:
            self.got: list[Settlement] = []

        def add(self, settlement: Settlement) -> None:
            self.got.append(settlement)

    completer = Collect()
    slots = Slots(
        concurrency=1, executor=Stub(), completer=completer, prefetch=Prefetch(concurrency=1, limit=10), services=None, board=Board.private(1), on_room=lambda: None  # type: ignore[arg-type]
    )  # fmt: skip
    now = datetime.now(UTC)
    batch = [Claimed("default", "claim", id, "long", 1, 100, now, now, "{}", None, None) for id in ("first", "second")]
    slots.offer(batch)
    slots.cancel("second", "claim of another attempt")
    assert completer.got == []
    slots.cancel("second", "claim")
    assert [(settlement.claimed.id, settlement.outcome.reason) for settlement in completer.got] == [
        ("second", "cancelled before it was started")
    ]
    await eventually(lambda: started == ["first"])
    slots.interrupt()


@pytest.mark.parametrize("reason", ["wrong address", None])
@pytest.mark.parametrize("way", ["retry", "snooze"])
async def test_a_cancellation_is_not_lost_when_the_attempt_ends_before_its_runner_has_looked(
    way: str, reason: str | None, queue: Queue, running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(self: Upkeep) -> None:
        """Never look."""

    monkeypatch.setattr(Upkeep, "_look_for_cancellations", look)
    runs: list[int] = []
    cancelled = asyncio.Event()

    @task(retry=Retry(max_attempts=10, initial=timedelta(0)))
    class Failing(Task):
        async def run(self) -> None:
            runs.append(1)
            await cancelled.wait()
            raise ValueError("after the cancellation") if way == "retry" else Snooze(timedelta(0))

    handle = queue.enqueue(Failing())
    async with running():
        await eventually(lambda: runs)
        assert handle.cancel(reason) is True
        cancelled.set()
        await eventually(lambda: handle.status() is Status.CANCELLED)
    assert len(runs) == 1
    assert ended(queue, handle) == (Status.CANCELLED, reason or "cancelled while it ran")
    assert [attempt.error for attempt in queue.attempts(handle)] == (["after the cancellation"] if way == "retry" else [])


async def test_cancel_all_reaches_what_runs(queue: Queue, running: Callable[..., Any]) -> None:
    started: list[int] = []

    @task
    class Long(Task):
        async def run(self) -> None:
            started.append(1)
            await asyncio.sleep(60)

    handles = queue.enqueue_many([Long() for _ in range(5)])
    async with running():
        await eventually(lambda: len(started) == 5)
        assert queue.cancel_all(type="long", reason="campaign stopped") == 5
        await eventually(lambda: {ended(queue, handle) for handle in handles} == {(Status.CANCELLED, "campaign stopped")})
