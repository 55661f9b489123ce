"""`handle.result()` and `handle.status()`: what a task came to, through a real runner; and `run_now`, without one."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel

from pgqueue import (
    AsyncQueue,
    Cancel,
    ConfigurationError,
    Ignore,
    PayloadError,
    PgQueueError,
    Queue,
    ResultTimeout,
    Task,
    TaskCancelled,
    TaskDead,
    TaskDeleted,
    TaskIgnored,
    TaskNotFound,
    TaskUnsuccessful,
    task,
)

NOWHERE = Queue("postgresql://127.0.0.1:1/nowhere")


class Receipt(BaseModel):
    number: int
    at: datetime


@dataclasses.dataclass
class Point:
    x: int


INSTANT = datetime(2030, 1, 1, tzinfo=UTC)


class Buying(Task[Receipt]):
    number: int = 1

    async def run(self) -> Receipt:
        return Receipt(number=self.number, at=INSTANT)


class Pointing(Task[Point]):
    def run(self) -> Point:
        return Point(self.context.attempt)


class Loose(Task):
    async def run(self) -> Any:
        return {"any": ["thing", 1, None]}


class Maybe(Task[int | None]):
    async def run(self) -> int | None:
        return None


class Failing(Task[int]):
    async def run(self) -> int:
        raise LookupError("no such user")


class Lying(Task[int]):
    async def run(self) -> int:
        return "three"


class Ignoring(Task[int]):
    async def run(self) -> int:
        raise Ignore("not ours")


class Cancelling(Task[int]):
    async def run(self) -> int:
        raise Cancel("changed my mind")


class Forgotten(Task[int]):
    async def run(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def types() -> None:
    for cls in (Buying, Pointing, Loose, Maybe, Failing, Lying, Ignoring, Cancelling):
        task(cls)
    task(history=False)(Forgotten)


async def test_a_result_comes_back_as_its_type(async_queue: AsyncQueue, drain: Any):
    buying, pointing = await async_queue.enqueue(Buying(number=7)), await async_queue.enqueue(Pointing())
    loose, maybe = await async_queue.enqueue(Loose()), await async_queue.enqueue(Maybe())
    assert await buying.status() == "ready"
    await drain()
    assert await buying.status() == "succeeded"
    assert await buying.result(timeout=1) == Receipt(number=7, at=INSTANT)
    assert await pointing.result(timeout=1) == Point(1)
    assert await loose.result() == {"any": ["thing", 1, None]}
    assert await maybe.result(timeout=timedelta(seconds=1)) is None


async def test_the_blocking_client_waits_for_a_result_too(queue: Queue, drain: Any):
    handle = queue.enqueue(Buying(number=8))
    waiting = asyncio.create_task(asyncio.to_thread(handle.result, 20))
    await drain()
    assert (await waiting).number == 8


async def test_a_task_without_a_result_says_why(async_queue: AsyncQueue, drain: Any):
    expected: list[tuple[Task[int], type[TaskUnsuccessful], str]] = [
        (Failing(), TaskDead, r"failing .* is dead: .*LookupError: no such user"),
        (Lying(), TaskDead, r"is dead: .*the result of lying is not what Task\[\.\.\.\] promises"),
        (Ignoring(), TaskIgnored, "was ignored: not ours"),
        (Cancelling(), TaskCancelled, "was cancelled: changed my mind"),
    ]
    handles = await async_queue.enqueue_many([one for one, _, _ in expected])
    await drain()
    for handle, (_, error, message) in zip(handles, expected, strict=True):
        with pytest.raises(error, match=message) as refusal:
            await handle.result(timeout=1)
        assert refusal.value.error


def test_a_deleted_task_has_no_result(queue: Queue, connection: psycopg.Connection[Any]):
    handle = queue.enqueue(Buying())
    handle.cancel()
    connection.execute("UPDATE pgqueue.history SET status = 'deleted', reason = NULL")
    with pytest.raises(TaskDeleted, match="was deleted$"):
        handle.result(timeout=0)


async def test_of_a_task_without_history_nothing_is_found_once_it_has_ended(async_queue: AsyncQueue, drain: Any):
    handle = await async_queue.enqueue(Forgotten())
    assert await handle.status() == "ready"
    await drain()
    assert await handle.status() is None
    with pytest.raises(TaskNotFound, match="has ended and nothing is kept of it"):
        await handle.result()
    assert await async_queue.get(handle) is None


def test_a_result_that_does_not_come_in_time_is_a_timeout(queue: Queue):
    handle = queue.enqueue(Buying())
    for timeout in (0, 0.05, timedelta(milliseconds=50)):
        with pytest.raises(ResultTimeout, match=r"buying .* did not end within 0.*at work on queue 'default'\?") as refusal:
            handle.result(timeout)
        assert isinstance(refusal.value, TimeoutError)
    assert handle.status() == "ready"


def test_a_timeout_that_makes_no_sense_is_refused(queue: Queue):
    handle = queue.enqueue(Buying())
    for timeout in (-1, "5", float("nan"), True, timedelta(seconds=-1)):
        with pytest.raises(ConfigurationError, match="timeout takes seconds"):
            handle.result(timeout)


def test_before_the_commit_there_is_no_status_and_a_result_is_waited_for(queue: Queue, migrated_database: str):
    with psycopg.connect(migrated_database) as own:
        handle = queue.enqueue(Buying(), connection=own)
        assert handle.status() is None
        with pytest.raises(ResultTimeout):
            handle.result(timeout=0.02)
        own.commit()
        assert handle.status() == "ready"


async def test_a_task_of_a_joined_transaction_is_known_to_have_ended_once_it_was_seen(
    async_queue: AsyncQueue, migrated_database: str, drain: Any
):
    async with await psycopg.AsyncConnection.connect(migrated_database) as own:
        handle = await async_queue.enqueue(Forgotten(), connection=own)
    with pytest.raises(ResultTimeout):
        await handle.result(timeout=0)
    await drain()
    with pytest.raises(TaskNotFound):
        await handle.result(timeout=20)


def test_waiting_survives_the_loss_of_the_connection(queue: Queue, connection: psycopg.Connection[Any]):
    handle = queue.enqueue(Buying())
    outcome: list[Any] = []

    def wait() -> None:
        with pytest.raises(TaskCancelled):
            handle.result(timeout=20)
        outcome.append("cancelled")

    waiting = threading.Thread(target=wait)
    waiting.start()
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    handle.cancel()
    waiting.join(20)
    assert outcome == ["cancelled"]


# ── run_now ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Asking(Task[list[str]]):
    text: str = "x"

    def run(self) -> list[str]:
        context = self.context
        assert context.task_id.version == 7
        assert isinstance(context.runner_id, uuid.UUID)
        assert not context.cancelled
        assert context.scheduled_at == context.started_at
        return [self.text, context.type, context.queue_name, str(context.attempt), str(self.tries), type(context.queue).__name__]


class AsyncAsking(Task[list[str]]):
    async def run(self) -> list[str]:
        await asyncio.sleep(0)
        return [type(self.context.queue).__name__]


class Spawning(Task[str]):
    async def run(self) -> str:
        handle = await Buying().enqueue()
        return str(handle.id)


class SyncSpawning(Task[str]):
    def run(self) -> str:
        return str(Buying().enqueue().id)


class Quitting(Task):
    async def run(self) -> None:
        raise SystemExit(3)


class Transacting(Task):
    async def run(self) -> None:
        self.context.transaction()


@pytest.fixture(autouse=True)
def eager_types(types: None) -> None:
    for cls in (Asking, AsyncAsking, Spawning, SyncSpawning, Quitting, Transacting):
        task(cls)


def test_run_now_runs_here_without_a_database():
    assert NOWHERE.run_now(Buying(number=3)) == Receipt(number=3, at=INSTANT)
    assert NOWHERE.run_now(Asking(text="y")) == ["y", "asking", "default", "1", "0", "Queue"]
    assert NOWHERE.run_now(AsyncAsking()) == ["AsyncQueue"]


async def test_run_now_runs_on_the_loop_without_a_database():
    nowhere = AsyncQueue("postgresql://127.0.0.1:1/nowhere")
    assert await nowhere.run_now(Buying(number=3)) == Receipt(number=3, at=INSTANT)
    assert await nowhere.run_now(AsyncAsking()) == ["AsyncQueue"]
    assert (await nowhere.run_now(Asking()))[-1] == "Queue"


def test_what_a_task_raises_comes_out_as_it_is():
    for cls, error in ((Failing, LookupError), (Ignoring, Ignore), (Quitting, SystemExit), (Lying, PayloadError)):
        with pytest.raises(error):
            NOWHERE.run_now(cls())


def test_run_now_checks_the_payload_and_leaves_the_task_alone():
    with pytest.raises(PayloadError):
        NOWHERE.run_now(Asking(text="\0"))
    with pytest.raises(ConfigurationError, match="run_now takes an instance"):
        NOWHERE.run_now(Asking)
    asking = Asking()
    NOWHERE.run_now(asking)
    with pytest.raises(PgQueueError, match="is not running"):
        _ = asking.context
    with pytest.raises(PgQueueError, match="run_now runs without the database"):
        NOWHERE.run_now(Transacting())


async def test_a_blocking_run_now_of_an_async_task_says_what_to_use_on_a_loop():
    with pytest.raises(ConfigurationError, match=r"use `await AsyncQueue\.run_now\(task\)`"):
        NOWHERE.run_now(Buying())
    assert NOWHERE.run_now(Asking())[0] == "x"


async def test_a_task_run_now_enqueues_with_a_client_of_its_own_kind(queue: Queue, async_queue: AsyncQueue):
    ids = [
        await asyncio.to_thread(queue.run_now, Spawning()),
        await asyncio.to_thread(queue.run_now, SyncSpawning()),
        await async_queue.run_now(Spawning()),
        await async_queue.run_now(SyncSpawning()),
    ]
    assert {str(record.id) for record in queue.list()} == set(ids)


def test_a_run_now_that_fails_leaves_no_context_behind():
    with pytest.raises(LookupError):
        NOWHERE.run_now(Failing())
    with pytest.raises(ConfigurationError, match="there is no default queue"):
        Buying().enqueue()
