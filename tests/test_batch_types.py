"""Batch types: one call of `run_many` for many tasks, one outcome for each of them; leased and locked alike."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import field_validator

from pgqueue import (
    AsyncQueue,
    Cancel,
    ConfigurationError,
    Ignore,
    Queue,
    Retry,
    RetryIn,
    Runner,
    Snooze,
    Status,
    Task,
    TaskHandle,
    registry,
    task,
)
from pgqueue.definition import BATCH_SIZE_MAX
from pgqueue.errors import PayloadError, PgQueueError
from pgqueue.registry import type_of
from pgqueue.settings import Settings
from tests.conftest import eventually, wait_until
from tests.programs import hazards
from tests.programs.process import runner_process
from tests.test_lanes import PATIENCE, trusted

Row = psycopg.Connection[Any]
Running = Callable[..., Any]


@pytest.fixture(params=["leased", "locked"])
def running(request: pytest.FixtureRequest, migrated_database: str, settings: Settings) -> Running:
    """`async with running():` a runner that claims by lease, or one that locks because it trusts its types."""
    is_locking = request.param == "locked"

    @asynccontextmanager
    async def running(**options: Any) -> AsyncIterator[Runner]:
        patience = {"patience": PATIENCE} if is_locking else {}
        async with Runner(AsyncQueue(migrated_database, settings=settings), **patience, **options) as runner:
            if is_locking:
                trusted(runner)
            yield runner

    return running


def statuses(handles: Sequence[TaskHandle[Any]]) -> set[Status | None]:
    return {handle.status() for handle in handles}


def reason(queue: Queue, handle: TaskHandle[Any]) -> str:
    record = queue.get(handle)
    assert record is not None
    return record.reason or ""


def finished(handles: Sequence[TaskHandle[Any]]) -> bool:
    return statuses(handles) <= {Status.SUCCEEDED, Status.DEAD, Status.CANCELLED, Status.IGNORED}


# ── one call, one outcome each ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_tasks_that_are_ready_share_calls_and_each_gets_its_own_result(queue: Queue, running: Running, kind: str) -> None:
    calls: list[int] = []

    if kind == "async":

        @task(name="square", batch_size=50)
        class Square(Task[int]):
            number: int

            @classmethod
            async def run_many(cls, tasks: Sequence[Square]) -> list[int | BaseException]:
                calls.append(len(tasks))
                return [one.number**2 for one in tasks]

    else:

        @task(name="square", batch_size=50)
        class SquareInThread(Task[int]):
            number: int

            @staticmethod
            def run_many(tasks: Sequence[SquareInThread]) -> tuple[int, ...]:
                calls.append(len(tasks))
                return tuple(one.number**2 for one in tasks)

    handles = [queue.enqueue_by_name("square", {"number": number}) for number in range(200)]
    async with running(concurrency=2) as runner:
        await eventually(lambda: finished(handles))
    assert [handle.result(timeout=1) for handle in handles] == [number**2 for number in range(200)]
    assert sum(calls) == 200
    assert max(calls) == 50
    assert len(calls) <= 8
    assert runner.stats().processed == 200
    assert runner.stats().lost_leases == 0


async def test_a_call_takes_one_slot_and_never_more_than_the_batch_size(queue: Queue, running: Running) -> None:
    sizes: list[int] = []
    now, most = 0, 0

    @task(batch_size=3)
    class Trio(Task):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None:
            nonlocal now, most
            now += 1
            sizes.append(len(tasks))
            most = max(most, now)
            await asyncio.sleep(0.005)
            now -= 1

    handles = queue.enqueue_many([Trio() for _ in range(40)])
    async with running(concurrency=2):
        await eventually(lambda: statuses(handles) == {Status.SUCCEEDED})
    assert sum(sizes) == 40
    assert max(sizes) == 3
    assert most == 2


async def test_a_lone_task_does_not_wait_for_others(queue: Queue, running: Running) -> None:
    @task(batch_size=BATCH_SIZE_MAX)
    class Lone(Task[int]):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> list[int]:
            return [len(tasks)]

    handle = queue.enqueue(Lone())
    async with running():
        await eventually(lambda: handle.status() is Status.SUCCEEDED)
    assert handle.result(timeout=1) == 1


async def test_other_types_in_between_keep_their_turn_and_run_by_themselves(queue: Queue, running: Running) -> None:
    seen: list[Any] = []

    @task(batch_size=10)
    class Many(Task):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None:
            seen.append(len(tasks))

    @task
    class One(Task):
        number: int

        async def run(self) -> None:
            seen.append(self.number)

    handles: list[TaskHandle[Any]] = []
    for number in range(-1, -4, -1):
        handles += [queue.enqueue(Many()), queue.enqueue(One(number=number))]
    async with running(concurrency=1):
        await eventually(lambda: finished(handles))
    assert [one for one in seen if one < 0] == [-1, -2, -3]
    assert sum(one for one in seen if one > 0) == 3


async def test_each_task_has_its_own_context_and_count_of_tries(queue: Queue, running: Running) -> None:
    seen: dict[str, tuple[int, int, str]] = {}

    @task(batch_size=10, retry=Retry(max_attempts=3, initial=timedelta(0), jitter=0))
    class Trying(Task):
        fails: int

        @classmethod
        async def run_many(cls, tasks: Sequence[Trying]) -> list[BaseException | None]:
            for one in tasks:
                seen[str(one.context.task_id)] = (one.tries, one.context.attempt, one.context.type)
            return [ValueError("not yet") if one.tries < one.fails else None for one in tasks]

    handles = queue.enqueue_many([Trying(fails=number) for number in range(4)])
    async with running():
        await eventually(lambda: finished(handles))
    assert [seen[str(handle.id)] for handle in handles] == [(tries, tries + 1, "trying") for tries in (0, 1, 2, 2)]
    assert [handle.status() for handle in handles] == [Status.SUCCEEDED] * 3 + [Status.DEAD]
    assert "ValueError: not yet" in reason(queue, handles[3])


async def test_what_is_returned_for_a_task_decides_about_that_task_alone(queue: Queue, running: Running) -> None:
    outcomes: dict[str, Any] = {
        "result": 7, "failure": LookupError("no such user"), "snooze": Snooze(timedelta(hours=1)), "ignore": Ignore("gone"),
        "cancel": Cancel("fraud"), "retry": RetryIn(timedelta(hours=1)), "exit": SystemExit(3), "lie": "seven", "class": ValueError,
    }  # fmt: skip

    @task(batch_size=20)
    class Varied(Task[int]):
        kind: str

        @classmethod
        async def run_many(cls, tasks: Sequence[Varied]) -> list[Any]:
            return [outcomes[one.kind] for one in tasks]

    handles = {kind: queue.enqueue(Varied(kind=kind)) for kind in outcomes}
    async with running():
        await eventually(lambda: not {Status.READY, Status.RUNNING} & statuses(list(handles.values())))
    found = {kind: handle.status() for kind, handle in handles.items()}
    assert found == {
        "result": Status.SUCCEEDED, "failure": Status.DEAD, "snooze": Status.SCHEDULED, "ignore": Status.IGNORED,
        "cancel": Status.CANCELLED, "retry": Status.SCHEDULED, "exit": Status.DEAD, "lie": Status.DEAD, "class": Status.DEAD,
    }  # fmt: skip
    assert handles["result"].result(timeout=1) == 7
    assert "no such user" in reason(queue, handles["failure"])
    assert "not what Task[...] promises" in reason(queue, handles["lie"])


async def test_none_is_success_without_a_result_for_each(queue: Queue, running: Running) -> None:
    @task(batch_size=10)
    class Silent(Task):
        @classmethod
        def run_many(cls, tasks: Sequence[Any]) -> None: ...

    @task(batch_size=10)
    class Promising(Task[int]):
        @classmethod
        def run_many(cls, tasks: Sequence[Any]) -> None: ...

    silent, promising = queue.enqueue_many([Silent() for _ in range(5)]), queue.enqueue(Promising())
    async with running():
        await eventually(lambda: finished([*silent, promising]))
    assert statuses(silent) == {Status.SUCCEEDED}
    assert silent[0].result(timeout=1) is None
    assert "not what Task[...] promises" in reason(queue, promising)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda tasks: [1], "returned 1 entries for 3 tasks"),
        (lambda tasks: [1] * 4, "returned 4 entries for 3 tasks"),
        (lambda tasks: [], "returned 0 entries for 3 tasks"),
        (lambda tasks: "abc", "not a value of type str"),
        (lambda tasks: b"abc", "not a value of type bytes"),
        (lambda tasks: {1, 2, 3}, "not a value of type set"),
        (lambda tasks: (one for one in tasks), "not a value of type generator"),
        (lambda tasks: {"a": 1, "b": 2, "c": 3}, "not a value of type dict"),
        (lambda tasks: 3, "not a value of type int"),
        (lambda tasks: asyncio.sleep(0), "returned an awaitable: write `async def run_many`"),
        (lambda tasks: tasks.clear(), "promises"),
    ],
)
async def test_what_is_no_entry_for_each_task_fails_all_with_a_clear_reason(
    queue: Queue, running: Running, returned: Any, message: str
) -> None:
    @task(batch_size=10)
    class Wrong(Task[int]):
        @classmethod
        def run_many(cls, tasks: Any) -> Any:
            return returned(tasks)

    handles = queue.enqueue_many([Wrong() for _ in range(3)])
    async with running(concurrency=3):
        await eventually(lambda: finished(handles))
    assert statuses(handles) == {Status.DEAD}
    assert all(message in reason(queue, handle) for handle in handles)


async def test_a_call_that_raises_fails_every_task_and_each_decides_about_its_next_try(queue: Queue, running: Running) -> None:
    @task(batch_size=10)
    class Deciding(Task):
        number: int

        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None:
            raise ConnectionError("the bulk endpoint is away")

        def next_try(self) -> timedelta | None:
            assert isinstance(self.context.error, ConnectionError)
            return timedelta(hours=self.number) if self.number else None

    handles = queue.enqueue_many([Deciding(number=number) for number in range(4)])
    async with running():
        await eventually(lambda: not {Status.READY, Status.RUNNING} & statuses(handles))
    assert [handle.status() for handle in handles] == [Status.DEAD] + [Status.SCHEDULED] * 3
    for handle in handles:
        (attempt,) = queue.attempts(handle)
        assert "the bulk endpoint is away" in (attempt.error or "")
        assert "run_many" in (attempt.traceback or "")


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, asyncio.CancelledError])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_whatever_a_call_raises_ends_at_its_tasks(
    queue: Queue, running: Running, raised: type[BaseException], kind: str
) -> None:
    class Base(Task):
        good: bool = False

    if kind == "async":

        @task(name="rude", batch_size=10)
        class Rude(Base):
            @classmethod
            async def run_many(cls, tasks: Sequence[Base]) -> None:
                await asyncio.sleep(0)
                if not tasks[0].good:
                    raise raised

    else:

        @task(name="rude", batch_size=10)
        class RudeInThread(Base):
            @classmethod
            def run_many(cls, tasks: Sequence[Base]) -> None:
                if not tasks[0].good:
                    raise raised

    bad = [queue.enqueue_by_name("rude") for _ in range(3)]
    async with running(concurrency=1):
        await eventually(lambda: finished(bad))
        good = queue.enqueue_by_name("rude", {"good": True})
        await eventually(lambda: finished([good]))
    assert statuses(bad) == {Status.DEAD}
    assert good.status() is Status.SUCCEEDED


async def test_a_generator_exit_out_of_a_future_fails_the_call_and_not_the_slot(queue: Queue, running: Running) -> None:
    @task(batch_size=10)
    class Closed(Task):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_exception, GeneratorExit("odd"))
            await future

    handles = queue.enqueue_many([Closed() for _ in range(4)])
    async with running(concurrency=1) as runner:
        await eventually(lambda: finished(handles))
        assert runner._running().slots.active_count == 0
        assert runner._running().slots.free_count == 1
    assert statuses(handles) == {Status.DEAD}


# ── what does not join ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_that_cannot_be_decoded_or_has_expired_does_not_join_and_hurts_nobody(
    queue: Queue, running: Running, connection: Row
) -> None:
    numbers: list[int] = []

    @task(batch_size=10)
    class Checked(Task):
        number: int

        @field_validator("number")
        @classmethod
        def check(cls, number: int) -> int:
            if number == 13:
                raise SystemExit("thirteen")
            return number

        @classmethod
        async def run_many(cls, tasks: Sequence[Checked]) -> None:
            numbers.extend(one.number for one in tasks)

    handles = queue.enqueue_many([Checked(number=number) for number in range(4)])
    late = queue.enqueue(Checked(number=4), expires=timedelta(milliseconds=1))
    connection.execute("""UPDATE pgqueue.task SET payload = '{"number": "x"}' WHERE payload->>'number' = '1'""")
    connection.execute("""UPDATE pgqueue.task SET payload = '{"number": 13}' WHERE payload->>'number' = '2'""")
    await eventually(
        lambda: connection.execute("SELECT now() > expires_at FROM pgqueue.task WHERE id = %s", (late.id,)).fetchone() == (True,)
    )
    async with running():
        await eventually(lambda: not {Status.READY, Status.RUNNING} & statuses([*handles, late]))
    assert sorted(numbers) == [0, 3]
    assert [handle.status() for handle in handles] == [Status.SUCCEEDED, Status.SCHEDULED, Status.SCHEDULED, Status.SUCCEEDED]
    assert late.status() is Status.CANCELLED
    assert "expired" in reason(queue, late)


async def test_a_call_of_which_nobody_joins_is_not_made(queue: Queue, running: Running, connection: Row) -> None:
    called = False

    @task(batch_size=10)
    class Spoilt(Task):
        number: int

        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None:
            nonlocal called
            called = True

    handles = queue.enqueue_many([Spoilt(number=number) for number in range(5)])
    connection.execute("""UPDATE pgqueue.task SET payload = '{}'""")
    async with running(concurrency=1) as runner:
        await eventually(lambda: statuses(handles) == {Status.SCHEDULED})
        assert runner._running().slots.free_count == 1
    assert not called


async def test_a_serializer_that_exits_hurts_its_own_task_alone(queue: Queue, running: Running) -> None:
    class Odd:
        def __init__(self, number: int) -> None:
            self.number = number

        def __iter__(self) -> Any:
            raise SystemExit("no")

    @task(batch_size=10)
    class Mixed(Task):
        number: int

        @classmethod
        async def run_many(cls, tasks: Sequence[Mixed]) -> list[Any]:
            return [Odd(1) if one.number == 1 else one.number for one in tasks]

    handles = queue.enqueue_many([Mixed(number=number) for number in range(3)])
    async with running():
        await eventually(lambda: finished(handles))
    assert [handle.status() for handle in handles] == [Status.SUCCEEDED, Status.DEAD, Status.SUCCEEDED]
    assert handles[2].result(timeout=1) == 2


# ── time, cancellation, shutdown ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_the_timeout_bounds_the_call_and_the_smallest_of_its_tasks_counts(
    queue: Queue, running: Running, kind: str
) -> None:
    released, told = threading.Event(), threading.Event()

    if kind == "async":

        @task(name="slow", batch_size=10, timeout=timedelta(minutes=1))
        class Slow(Task):
            @classmethod
            async def run_many(cls, tasks: Sequence[Any]) -> None:
                await asyncio.sleep(60)

    else:

        @task(name="slow", batch_size=10, timeout=timedelta(minutes=1))
        class SlowInThread(Task):
            @classmethod
            def run_many(cls, tasks: Sequence[Any]) -> None:
                while not all(one.context.cancelled for one in tasks):
                    released.wait(0.01)
                told.set()

    handles = [queue.enqueue_by_name("slow") for _ in range(3)]
    handles.append(queue.enqueue_by_name("slow", timeout=timedelta(milliseconds=100)))
    async with running(concurrency=4) as runner:
        await eventually(lambda: finished(handles))
        assert not runner._running().board.attempts()
    assert statuses(handles) == {Status.DEAD}
    assert all("TimeoutError: it did not end within its timeout of 0.1 s" in reason(queue, handle) for handle in handles)
    assert kind == "async" or told.wait(5)


async def test_each_task_of_a_call_is_on_the_board_with_the_deadline_of_the_call(queue: Queue, running: Running) -> None:
    go_on = asyncio.Event()

    @task(batch_size=100, timeout=timedelta(minutes=1))
    class Posted(Task):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None:
            await go_on.wait()

    handles = queue.enqueue_many([Posted() for _ in range(60)])
    handles.append(queue.enqueue(Posted(), timeout=timedelta(seconds=30), priority=200))
    async with running(concurrency=1) as runner:
        board = runner._running().board
        await eventually(lambda: len(board.attempts()) == 61)
        now = time.monotonic()
        assert {started.id for started in board.attempts()} == {str(handle.id) for handle in handles}
        deadlines = {started.deadline for started in board.attempts()}
        assert len(deadlines) == 1
        assert now < deadlines.pop() <= now + 30
        assert runner.stats().active == 61
        assert runner._running().slots.in_hand == 1
        go_on.set()
        await eventually(lambda: statuses(handles) == {Status.SUCCEEDED})
        assert not board.is_busy


async def test_a_cancelled_task_of_a_running_call_is_told_and_the_others_are_not_interrupted(
    queue: Queue, running: Running
) -> None:
    started = asyncio.Event()
    interrupted = False

    @task(batch_size=10)
    class Long(Task[int]):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> list[int]:
            nonlocal interrupted
            started.set()
            try:
                await eventually(lambda: any(one.context.cancelled for one in tasks))
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                interrupted = True
                raise
            return [7] * len(tasks)

    handles = queue.enqueue_many([Long() for _ in range(4)])
    async with running():
        await asyncio.wait_for(started.wait(), 10)
        await eventually(lambda: statuses(handles) == {Status.RUNNING})
        assert handles[1].cancel("changed my mind")
        await eventually(lambda: finished(handles))
    assert not interrupted
    assert [handle.status() for handle in handles] == [Status.SUCCEEDED, Status.CANCELLED, Status.SUCCEEDED, Status.SUCCEEDED]


async def test_a_cancelled_task_whose_call_never_looks_ends_as_it_ends(queue: Queue, running: Running) -> None:
    go_on = asyncio.Event()

    @task(batch_size=10)
    class Deaf(Task):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None:
            await go_on.wait()

    handles = queue.enqueue_many([Deaf() for _ in range(2)])
    async with running() as runner:
        await eventually(lambda: statuses(handles) == {Status.RUNNING})
        handles[0].cancel()
        slots = runner._running().slots
        await eventually(lambda: any(attempt._cancel_asked for attempt in slots._active.values()))
        go_on.set()
        await eventually(lambda: finished(handles))
    assert statuses(handles) == {Status.SUCCEEDED}


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_runner_that_stops_interrupts_a_call_once_and_all_of_it_goes_back(
    queue: Queue, running: Running, connection: Row, kind: str
) -> None:
    started, released = threading.Event(), threading.Event()
    events: list[str] = []

    if kind == "async":

        @task(name="endless", batch_size=10)
        class Endless(Task):
            @classmethod
            async def run_many(cls, tasks: Sequence[Any]) -> None:
                started.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    await asyncio.sleep(0.05)
                    events.append("cleaned up")

    else:

        @task(name="endless", batch_size=10)
        class EndlessThread(Task):
            @classmethod
            def run_many(cls, tasks: Sequence[Any]) -> None:
                started.set()
                released.wait(30)

    handles = [queue.enqueue_by_name("endless") for _ in range(5)]
    async with running(concurrency=5) as runner:
        await eventually(started.is_set)
        await eventually(lambda: runner.stats().active == 5)
        await runner.stop(timeout=0.1)
    released.set()
    assert events == (["cleaned up"] if kind == "async" else [])
    assert connection.execute("SELECT DISTINCT status::text, attempt FROM pgqueue.task").fetchall() == [("ready", 0)]
    assert statuses(handles) == {Status.READY}
    assert all(not queue.attempts(handle) for handle in handles)


async def test_a_locked_call_that_outlives_the_patience_is_leased_and_settled_once(
    queue: Queue, migrated_database: str, settings: Settings
) -> None:
    go_on = asyncio.Event()
    runs = 0

    @task(batch_size=10)
    class Moody(Task):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None:
            nonlocal runs
            runs += len(tasks)
            await go_on.wait()

    async with Runner(AsyncQueue(migrated_database, settings=settings), patience=PATIENCE, concurrency=1) as runner:
        trusted(runner)
        handles = queue.enqueue_many([Moody() for _ in range(5)])
        await eventually(lambda: Status.RUNNING in statuses(handles))
        go_on.set()
        await eventually(lambda: statuses(handles) == {Status.SUCCEEDED})
    assert runs == 5
    assert runner.stats().lost_leases == 0


def test_a_call_that_kills_its_process_counts_for_all_of_it_and_only_the_culprit_dies(
    queue: Queue, tmp_path: Path, connection: Row
) -> None:
    registry.add(type_of(hazards.Together()))
    innocents = queue.enqueue_many([hazards.Together() for _ in range(20)])
    culprit = queue.enqueue(hazards.Together(harm="kill"))
    flags = ("--max-crashes", "1", "--patience", "0s")
    with runner_process(queue.dsn, tmp_path / "runner.log", *flags, tasks="tests.programs.hazards"):
        wait_until(lambda: finished([*innocents, culprit]), timeout=40)
    assert statuses(innocents) == {Status.SUCCEEDED}
    assert culprit.status() is Status.DEAD
    assert connection.execute("SELECT DISTINCT attempt FROM pgqueue.history").fetchall() == [(1,)]


def test_a_call_that_holds_up_its_process_beyond_the_timeout_is_a_failed_attempt_of_all_its_tasks(
    queue: Queue, tmp_path: Path
) -> None:
    registry.add(type_of(hazards.Together()))
    handles = queue.enqueue_many([hazards.Together(harm="hang") for _ in range(8)])
    with runner_process(queue.dsn, tmp_path / "runner.log", "--kill-grace", "300ms", tasks="tests.programs.hazards"):
        wait_until(lambda: finished(handles), timeout=40)
    assert statuses(handles) == {Status.DEAD}
    for handle in handles:
        attempts = queue.attempts(handle)
        assert [(one.attempt, one.error_type) for one in attempts] == [(1, "TimeoutError"), (2, "TimeoutError")]


# ── inside a call ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_transaction_in_a_call_is_refused_and_the_queue_works(queue: Queue, running: Running) -> None:
    refusals: list[str] = []

    @task
    class Following(Task):
        async def run(self) -> None: ...

    @task(batch_size=10)
    class Leading(Task[str]):
        @classmethod
        async def run_many(cls, tasks: Sequence[Leading]) -> list[str]:
            for one in tasks:
                with pytest.raises(ConfigurationError, match="batch type") as refusal:
                    one.context.transaction()
                refusals.append(str(refusal.value))
            first = await tasks[0].context.queue.enqueue(Following())
            second = await Following().enqueue()
            return [f"{first.id} {second.id}"] * len(tasks)

    handle = queue.enqueue(Leading())
    async with running():
        await eventually(lambda: finished([handle]))
        followers = (handle.result(timeout=1) or "").split()
        await eventually(lambda: {queue.get(id).status for id in followers} == {Status.SUCCEEDED})  # type: ignore[union-attr]
    assert len(refusals) == 1


async def test_a_type_without_history_leaves_no_trace(queue: Queue, running: Running, connection: Row) -> None:
    @task(batch_size=10, history=False)
    class Traceless(Task):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None: ...

    queue.enqueue_many([Traceless() for _ in range(20)])
    async with running():
        await eventually(lambda: connection.execute("SELECT count(*) FROM pgqueue.task").fetchone() == (0,))
    assert connection.execute("SELECT count(*) FROM pgqueue.history").fetchone() == (0,)


# ── run_now ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_run_now_calls_with_the_one_task_and_returns_its_result(queue: Queue) -> None:
    @task(batch_size=10)
    class Async(Task[int]):
        number: int

        @classmethod
        async def run_many(cls, tasks: Sequence[Async]) -> list[int | BaseException]:
            assert tasks[0].tries == 0
            return [LookupError("zero") if one.number == 0 else one.number + len(tasks) for one in tasks]

    @task(batch_size=10)
    class Sync(Task[int]):
        @staticmethod
        def run_many(tasks: Sequence[Any]) -> list[int]:
            return [1, 2]

    assert queue.run_now(Async(number=5)) == 6
    with pytest.raises(LookupError, match="zero"):
        queue.run_now(Async(number=0))
    with pytest.raises(PayloadError, match="returned 2 entries for 1 tasks"):
        queue.run_now(Sync())


async def test_run_now_works_with_the_async_queue_and_refuses_a_transaction(async_queue: AsyncQueue) -> None:
    @task(batch_size=10)
    class Sync(Task[int]):
        @classmethod
        def run_many(cls, tasks: Sequence[Any]) -> list[int]:
            return [7]

    @task(batch_size=10)
    class Wishful(Task):
        @classmethod
        async def run_many(cls, tasks: Sequence[Any]) -> None:
            tasks[0].context.transaction()

    assert await async_queue.run_now(Sync()) == 7
    with pytest.raises(PgQueueError, match="transaction"):
        await async_queue.run_now(Wishful())


# ── decoration ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Ordinary(Task):
    async def run(self) -> None: ...


class Batched(Task):
    @classmethod
    async def run_many(cls, tasks: Sequence[Any]) -> None: ...


class Both(Batched):
    async def run(self) -> None: ...


class Bound(Task):
    async def run_many(self, tasks: Sequence[Any]) -> None: ...  # type: ignore[override]


class Greedy(Task):
    @classmethod
    async def run_many(cls, tasks: Sequence[Any], more: int) -> None: ...  # type: ignore[override]


class Poor(Task):
    @staticmethod
    def run_many() -> None: ...  # type: ignore[override]


class Yielding(Task):
    @classmethod
    def run_many(cls, tasks: Sequence[Any]) -> Any:
        yield from tasks


class Constant(Task):
    run_many = property(lambda self: None)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (Batched, {"batch_size": 0}, "batch_size takes a whole number from 1 to 10,000, not 0"),
        (Batched, {"batch_size": -1}, "batch_size takes"),
        (Batched, {"batch_size": 10_001}, "batch_size takes"),
        (Batched, {"batch_size": True}, "batch_size takes a whole number from 1 to 10,000, not True"),
        (Batched, {"batch_size": 5.0}, "batch_size takes"),
        (Batched, {"batch_size": "5"}, "batch_size takes"),
        (Batched, {"batch_size": float("nan")}, "batch_size takes"),
        (Batched, {"batch_size": "x" * 100_000}, "batch_size takes"),
        (Batched, {}, "it has `run_many` and no batch_size="),
        (Batched, {"batch_size": 5, "executor": "process"}, "batch_size= and executor= exclude each other"),
        (Ordinary, {"batch_size": 5}, "batch_size= needs a `run_many`"),
        (Task, {"batch_size": 5}, "batch_size= needs a `run_many`"),
        (Both, {"batch_size": 5}, "both `run` and `run_many`"),
        (Both, {}, "it has `run_many` and no batch_size="),
        (Bound, {"batch_size": 5}, "make it a classmethod"),
        (Constant, {"batch_size": 5}, "make it a classmethod"),
        (Greedy, {"batch_size": 5}, "called with the tasks alone"),
        (Poor, {"batch_size": 5}, "called with the tasks alone"),
        (Yielding, {"batch_size": 5}, "`run_many` yields"),
    ],
)
def test_a_wrong_batch_type_is_refused_when_it_is_decorated(cls: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refusal:
        task(**options)(cls)
    assert f"@task on {cls.__qualname__}" in str(refusal.value)
    assert len(registry) == 0


@pytest.mark.parametrize("size", [1, BATCH_SIZE_MAX])
def test_the_limits_themselves_are_allowed(size: int) -> None:
    task(batch_size=size)(Batched)
    assert registry.get("batched").batch_size == size
    assert registry.get("batched").execution == "async"
    assert registry.get("batched").described_options()["batch_size"] == size


def test_a_field_called_run_many_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="would hide Task.run_many"):

        class Hiding(Task):
            run_many: int = 1
