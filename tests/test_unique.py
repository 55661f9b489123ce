"""Unique tasks: one unfinished task per type, queue and chosen values, by a constraint."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from pydantic import Field

from pgqueue import AsyncQueue, EnqueueConflict, Queue, Task, Unique, task
from pgqueue.operations import CONFLICT_TRIES_MAX, enqueue
from pgqueue.preparation import prepare
from pgqueue.settings import Settings


class Report(Task):
    n: int = 0

    async def run(self) -> None: ...


class Sync(Task):
    user_id: int = 0
    account: str = Field(default="", alias="konto")
    why: str = ""

    async def run(self) -> None: ...


class Failing(Task):
    async def run(self) -> None:
        raise LookupError("no")


@pytest.fixture(autouse=True)
def types() -> None:
    task(unique=True)(Report)
    task(unique=Unique(by=("user_id", "account")))(Sync)


def test_a_duplicate_gives_the_handle_of_the_task_that_is_there(queue: Queue):
    first = queue.enqueue(Report(n=1))
    second = queue.enqueue(Report(n=2))
    assert (first.created, second.created) == (True, False)
    assert second.id == first.id
    assert second.status() == "ready"
    assert "(existing)" in repr(second)
    record = queue.get(second)
    assert record is not None
    assert record.payload == {"n": 1}


def test_every_unfinished_status_holds_the_key(queue: Queue, connection: psycopg.Connection[Any]):
    first = queue.enqueue(Report(), delay=timedelta(hours=1))
    claimed = "runner_id = gen_random_uuid(), claim_id = gen_random_uuid(), claimed_at = now()"
    for status in ("scheduled", "blocked", "ready", "running"):
        more = {"blocked": "blocked_on = 'type'", "running": f"blocked_on = NULL, {claimed}"}.get(status, "blocked_on = NULL")
        connection.execute(f"UPDATE pgqueue.task SET status = '{status}', {more}")
        assert queue.enqueue(Report()).id == first.id
        assert queue.enqueue_many([Report(), Report()])[1].id == first.id


async def test_a_task_that_ended_frees_the_key(async_queue: AsyncQueue, drain: Any):
    task(unique=True)(Failing)
    first, failed = await async_queue.enqueue(Report()), await async_queue.enqueue(Failing())
    await drain()
    assert [await one.status() for one in (first, failed)] == ["succeeded", "dead"]
    assert (await async_queue.enqueue(Report())).created
    assert (await async_queue.enqueue(Failing())).created


def test_a_cancelled_task_frees_the_key(queue: Queue):
    assert queue.enqueue(Report()).cancel()
    assert queue.enqueue(Report()).created


def test_a_queue_is_a_world_of_its_own(queue: Queue):
    assert queue.enqueue(Report()).created
    assert queue.enqueue(Report(), queue="other").created
    assert not queue.enqueue(Report(), queue="other").created


def test_by_fields_only_their_values_count(queue: Queue):
    first = queue.enqueue(Sync(user_id=1, konto="a", why="x"))
    assert queue.enqueue(Sync(user_id=1, konto="a", why="y")).id == first.id
    assert queue.enqueue(Sync(user_id=1, konto="b")).created
    assert queue.enqueue(Sync(user_id=2, konto="a")).created


def test_one_enqueue_may_say_otherwise(queue: Queue):
    first = queue.enqueue(Report(n=1))
    assert queue.enqueue(Report(n=1), unique=False).created
    assert queue.enqueue(Report(n=1), unique=True).id == first.id
    assert queue.enqueue(Report(n=1), unique=Unique(by=("n",))).created
    assert not queue.enqueue(Report(n=1), unique=Unique(by=("n",))).created
    assert queue.enqueue(Report(n=2), unique=Unique(by=("n",))).created
    assert queue.depth() == 4


def test_of_many_callers_at_once_one_inserts(migrated_database: str, settings: Settings):
    callers, rounds = 8, 10
    outcomes: list[list[Any]] = [[] for _ in range(rounds)]
    barrier = threading.Barrier(callers)

    def call() -> None:
        with Queue(migrated_database, settings=settings, pool_size=1) as queue:
            for number in range(rounds):
                barrier.wait(30)
                outcomes[number].append(queue.enqueue(Sync(user_id=number)))

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert [len(outcome) for outcome in outcomes] == [callers] * rounds
    for outcome in outcomes:
        assert sum(handle.created for handle in outcome) == 1
        assert len({handle.id for handle in outcome}) == 1


def test_a_holder_that_keeps_coming_and_going_is_given_up_on(queue: Queue):
    """The insert meets a holder each time, and each time it is gone when looked for."""
    operation = enqueue(queue._sql, prepare(Report(), {}, queue.settings))
    names = [next(operation).statement.name]
    with pytest.raises(EnqueueConflict, match="came and went 10 times: enqueue again"):
        while True:
            names.append(operation.send([]).statement.name)
    assert names.count("enqueue") == CONFLICT_TRIES_MAX


def test_an_idempotent_holder_that_went_leaves_the_key_to_a_task_that_is_inserted(queue: Queue):
    """The key is taken once; when the holder of the unique key is gone, it is the insert that is repeated, not the key."""
    operation = enqueue(queue._sql, prepare(Report(), {"idempotency_key": "k"}, queue.settings))
    assert next(operation).statement.name == "remember_key"
    assert operation.send([("mine",)]).statement.name == "enqueue"
    assert operation.send([]).statement.name == "unique_holder"
    assert operation.send([]).statement.name == "outcome"
    assert operation.send([]).statement.name == "enqueue"
    with pytest.raises(StopIteration) as stop:
        operation.send([("id", True)])
    assert stop.value.value.created
