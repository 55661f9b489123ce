"""Idempotency keys: within the retention the same key gives the first task, finished or not, with its result."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, PayloadError, Queue, Task, task
from pgqueue.settings import Settings


class Pay(Task[str]):
    order: str = "o1"
    amount: int = 1

    async def run(self) -> str:
        return f"paid {self.amount} for {self.order}"


class Refund(Pay): ...


def _by_order(task: Any) -> str:
    return f"order-{task.order}"


@pytest.fixture(autouse=True)
def types() -> None:
    task(idempotency_key=_by_order)(Pay)
    task(Refund)


def test_the_same_key_gives_the_first_task(queue: Queue):
    first = queue.enqueue(Pay(amount=1))
    second = queue.enqueue(Pay(amount=2))
    other = queue.enqueue(Pay(order="o2"))
    assert [handle.created for handle in (first, second, other)] == [True, False, True]
    assert second.id == first.id
    assert queue.depth() == 2


async def test_a_finished_task_still_stands_for_its_key_with_its_result(async_queue: AsyncQueue, drain: Any):
    first = await async_queue.enqueue(Pay(amount=3))
    await drain()
    again = await async_queue.enqueue(Pay(amount=4))
    assert not again.created
    assert await again.result(timeout=5) == await first.result(timeout=5) == "paid 3 for o1"
    assert await async_queue.depth() == 0


def test_a_key_that_expired_is_free_again(queue: Queue, connection: psycopg.Connection[Any]):
    first = queue.enqueue(Pay())
    row = connection.execute("SELECT expires_at - created_at FROM pgqueue.idempotency").fetchone()
    assert row == (timedelta(hours=24),)
    connection.execute("UPDATE pgqueue.idempotency SET expires_at = clock_timestamp()")
    second = queue.enqueue(Pay())
    assert second.created
    assert second.id != first.id
    assert queue.enqueue(Pay()).id == second.id


def test_the_retention_is_a_setting_and_an_option(
    migrated_database: str, connection: psycopg.Connection[Any], settings: Settings
):
    task(idempotency_retention=timedelta(minutes=5))(Refund)
    with Queue(migrated_database, settings=settings.model_copy(update={"idempotency_retention": timedelta(days=2)})) as queue:
        queue.enqueue(Pay())
        queue.enqueue(Refund(), idempotency_key="r")
    rows = connection.execute("SELECT expires_at - created_at FROM pgqueue.idempotency ORDER BY 1").fetchall()
    assert rows == [(timedelta(minutes=5),), (timedelta(days=2),)]


def test_a_key_belongs_to_its_type_and_queue(queue: Queue):
    handles = [
        queue.enqueue(Pay(), idempotency_key="k"),
        queue.enqueue(Refund(), idempotency_key="k"),
        queue.enqueue(Pay(), idempotency_key="k", queue="other"),
    ]
    assert len({handle.id for handle in handles}) == 3
    assert not queue.enqueue(Pay(), idempotency_key="k", queue="other").created


def test_one_enqueue_may_bring_its_own_key_or_function(queue: Queue):
    first = queue.enqueue(Refund(amount=5), idempotency_key=lambda task: f"a{task.amount}")
    assert queue.enqueue(Refund(), idempotency_key="a5").id == first.id
    assert queue.enqueue(Refund()).created


def test_a_key_function_that_raises_comes_out_and_stores_nothing(queue: Queue, connection: psycopg.Connection[Any]):
    def broken(task: Any) -> str:
        raise LookupError("no order")

    def empty(task: Any) -> str:
        return ""

    for call in (
        lambda: queue.enqueue(Pay(), idempotency_key=broken),
        lambda: queue.enqueue_many([Pay()], idempotency_key=broken),
    ):
        with pytest.raises(LookupError, match="no order"):
            call()
    with pytest.raises(PayloadError, match="must give a string"):
        queue.enqueue(Pay(), idempotency_key=empty)
    assert queue.depth() == 0
    assert connection.execute("SELECT count(*) FROM pgqueue.idempotency").fetchone() == (0,)


def test_with_a_unique_key_the_holder_stands_for_the_idempotency_key(queue: Queue):
    holder = queue.enqueue(Refund(), unique=True)
    first = queue.enqueue(Refund(), unique=True, idempotency_key="k")
    assert (first.id, first.created) == (holder.id, False)
    holder.cancel()
    again = queue.enqueue(Refund(), unique=True, idempotency_key="k")
    assert (again.id, again.created) == (holder.id, False)
    assert again.status() == "cancelled"
    assert queue.enqueue(Refund(), unique=True, idempotency_key="other").created


def test_a_failed_insert_leaves_no_key(queue: Queue, connection: psycopg.Connection[Any]):
    connection.execute("ALTER TABLE pgqueue.task ADD CONSTRAINT odd CHECK (priority <> 5)")
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.enqueue(Pay(), priority=5)
    assert connection.execute("SELECT count(*) FROM pgqueue.idempotency").fetchone() == (0,)
    assert queue.enqueue(Pay()).created


def test_of_many_callers_with_one_key_one_inserts(migrated_database: str, settings: Settings):
    callers = 8
    outcomes: list[Any] = []
    barrier = threading.Barrier(callers)

    def call() -> None:
        with Queue(migrated_database, settings=settings, pool_size=1) as queue:
            for number in range(8):
                barrier.wait(30)
                outcomes.append((number, queue.enqueue(Pay(order=str(number)))))

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    for number in range(8):
        handles = [handle for round_number, handle in outcomes if round_number == number]
        assert len(handles) == callers
        assert sum(handle.created for handle in handles) == 1
        assert len({handle.id for handle in handles}) == 1
