"""Enqueueing many: all or none, in order, by COPY or by INSERT alike, and without deadlocks."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, ConfigurationError, PayloadError, Queue, Task, Unique, registry, task
from pgqueue.operations import COPY_MIN
from pgqueue.settings import Settings

FUTURE = datetime(2999, 1, 1, tzinfo=UTC)
FEW, MANY = 3, COPY_MIN + 1


class Note(Task):
    n: int = 0
    words: str = ""

    async def run(self) -> None: ...


class Sync(Task):
    user_id: int = 0

    async def run(self) -> None: ...


@pytest.fixture(autouse=True)
def types() -> None:
    task(Note)
    task(unique=Unique(by=("user_id",)))(Sync)


def test_handles_come_in_the_order_of_the_tasks(queue: Queue):
    for count in (0, 1, FEW, MANY):
        handles = queue.enqueue_many([Note(n=n) for n in range(count)], queue=f"of {count}")
        assert len(handles) == count
        assert all(handle.created for handle in handles)
        stored = {record.id: record.payload["n"] for record in queue.list(queue=f"of {count}", limit=1000)}
        assert [stored[handle.id] for handle in handles] == list(range(count))
        assert [handle.id for handle in handles] == sorted(handle.id for handle in handles)


def test_copy_stores_what_insert_stores(queue: Queue, connection: psycopg.Connection[Any]):
    """Every column of a task that came by COPY is that of one that came by INSERT, the id and the clock apart."""
    task(tags=["a b", 'q"', "\\", "{x,y}", "NULL"], expires=timedelta(days=2))(Note)
    options: list[dict[str, Any]] = [
        {},
        {"priority": -5, "queue": "späte\\Post", "headers": {"k": 'v\t"\n\\N'}, "timeout": timedelta(seconds=3)},
        {"delay": timedelta(hours=1)},
        {"at": FUTURE, "expires": FUTURE + timedelta(days=1)},
        {"at": datetime(2020, 1, 1, tzinfo=UTC), "expires": timedelta(minutes=1)},
    ]
    columns = (
        "queue, type, status::text, priority, payload::text, date_trunc('minute', maturity_at - created_at), "
        "date_trunc('minute', expires_at - created_at), tags, headers::text, options::text, attempt, unique_key"
    )
    for given in options:
        stored = []
        for count in (FEW, MANY):
            connection.execute("TRUNCATE pgqueue.task")
            queue.enqueue_many([Note(words='tab\t newline\n \\N \\. "quoted" é 💥')] * count, **given)
            rows = connection.execute(f"SELECT DISTINCT {columns} FROM pgqueue.task").fetchall()
            assert connection.execute("SELECT count(*) FROM pgqueue.task").fetchone() == (count,)
            stored.append(rows)
        assert stored[0] == stored[1]
        assert len(stored[0]) == 1


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("position", [0, -1])
def test_one_bad_task_stops_all_before_anything_is_sent(count: int, position: int):
    tasks = [Note() for _ in range(count)]
    tasks[position] = Note(words="\0")
    with pytest.raises(PayloadError):
        Queue("postgresql://127.0.0.1:1/nowhere").enqueue_many(tasks)


@pytest.mark.parametrize("keyed", [False, True])
def test_what_postgresql_refuses_stores_none(queue: Queue, connection: psycopg.Connection[Any], keyed: bool):
    connection.execute("ALTER TABLE pgqueue.task ADD CONSTRAINT odd CHECK (payload->>'n' <> '5' AND payload->>'user_id' <> '5')")
    tasks: list[Task] = [Sync(user_id=n) if keyed else Note(n=n) for n in range(MANY)]
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.enqueue_many(tasks)
    assert queue.depth() == 0


def test_spacing_lets_each_mature_later_than_the_one_before(queue: Queue):
    when: list[dict[str, Any]] = [{}, {"delay": timedelta(hours=2)}, {"at": FUTURE}]
    for count in (FEW, MANY):
        for number, options in enumerate(when):
            name = f"{count} {number}"
            handles = queue.enqueue_many([Note()] * count, spacing=timedelta(minutes=1), queue=name, **options)
            instants = {record.id: record.maturity_at for record in queue.list(queue=name, limit=1000)}
            gaps = {instants[later.id] - instants[earlier.id] for earlier, later in pairwise(handles)}
            assert gaps == {timedelta(minutes=1)}
            assert "at" not in options or instants[handles[0].id] == FUTURE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": 5}, "spacing takes a timedelta"),
        ({"spacing": timedelta(seconds=-1)}, "spacing takes a timedelta"),
        ({"spacing": timedelta(days=200_000)}, "is more than 365,000 days"),
        ({"spacing": timedelta(days=100_000), "delay": timedelta(days=300_000), "expires": timedelta(days=1)}, "would expire"),
        ({"spacing": timedelta(days=365), "at": datetime(9998, 6, 1, tzinfo=UTC)}, "outside the years"),
        ({"spacing": timedelta(hours=1), "expires": timedelta(minutes=90)}, "would expire before it may start"),
        ({"idempotency_key": "one"}, "one idempotency_key= for many tasks"),
        ({"delay": timedelta(1), "at": FUTURE}, "both delay= and at="),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_sent(options: Any, message: str):
    with pytest.raises(ConfigurationError, match=message):
        Queue("postgresql://127.0.0.1:1/nowhere").enqueue_many([Note()] * 3, **options)


@pytest.mark.parametrize("wrong", [Note(), 5, None, "note", {"a": Note()}])
def test_what_is_no_list_of_tasks_is_refused(wrong: Any):
    with pytest.raises(ConfigurationError, match="enqueue_many takes a list of tasks"):
        Queue("postgresql://127.0.0.1:1/nowhere").enqueue_many(wrong)
    with pytest.raises(ConfigurationError, match="enqueue takes an instance"):
        Queue("postgresql://127.0.0.1:1/nowhere").enqueue_many([Note(), [wrong]])


def test_a_hundred_thousand_tasks_arrive(queue: Queue):
    handles = queue.enqueue_many(Note() for _ in range(100_000))
    assert len({handle.id for handle in handles}) == 100_000
    assert queue.depth() == 100_000


@pytest.mark.parametrize("count", [FEW, MANY, 6_000])
def test_of_two_with_one_key_in_a_call_the_second_gets_the_handle_of_the_first(queue: Queue, count: int):
    handles = queue.enqueue_many([Sync(user_id=n // 2) for n in range(2 * count)])
    assert [handle.created for handle in handles] == [True, False] * count
    assert [handle.id for handle in handles[::2]] == [handle.id for handle in handles[1::2]]
    assert queue.depth() == count


def test_keys_that_are_taken_give_the_holders(queue: Queue):
    holders = {n: queue.enqueue(Sync(user_id=n)).id for n in (3, 1)}
    handles = queue.enqueue_many([Sync(user_id=n) for n in range(5)] + [Sync(user_id=9)])
    assert [handle.created for handle in handles] == [True, False, True, False, True, True]
    assert (handles[1].id, handles[3].id) == (holders[1], holders[3])
    assert queue.depth() == 6


def test_tasks_with_and_without_keys_mix(queue: Queue):
    task(idempotency_key=lambda task: f"n{task.n}")(type("Once", (Note,), {"__module__": __name__}))
    once = registry.get("once").cls
    batch: list[Any] = [Note(), Sync(user_id=1), once(n=1), Note(), once(n=1), Sync(user_id=1), once(n=2)]
    handles = queue.enqueue_many(batch)
    assert [handle.created for handle in handles] == [True, True, True, True, False, False, True]
    assert handles[4].id == handles[2].id
    assert handles[5].id == handles[1].id
    assert [handle.type for handle in handles] == ["note", "sync", "once", "note", "once", "sync", "once"]
    again = queue.enqueue_many(batch)
    assert [handle.created for handle in again] == [True, False, False, True, False, False, False]
    assert [handle.id for handle in again[4:]] == [handle.id for handle in handles[4:]]


def test_an_idempotent_task_whose_unique_key_is_taken_stands_for_the_holder(queue: Queue):
    holder = queue.enqueue(Sync(user_id=1))
    handles = queue.enqueue_many([Sync(user_id=1), Sync(user_id=1)], idempotency_key=lambda task: f"u{task.user_id}")
    assert [(handle.id, handle.created) for handle in handles] == [(holder.id, False)] * 2
    holder.cancel()
    assert queue.enqueue(Sync(user_id=1), idempotency_key="u1").id == holder.id


def test_callers_with_the_same_keys_in_opposite_orders_never_deadlock(migrated_database: str, settings: Settings):
    """Unique and idempotency keys of many rounds, taken by four threads in shuffled orders, each round in one transaction."""
    rounds, width, callers = 25, 40, 4
    created: list[int] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(callers)

    def call(seed: int) -> None:
        random = Random(seed)
        with Queue(migrated_database, settings=settings, pool_size=1) as queue:
            for number in range(rounds):
                tasks = [Sync(user_id=number * width + n) for n in range(width)]
                random.shuffle(tasks)
                key = (lambda task: f"k{task.user_id * 7919 % 1000}") if number % 2 else None
                barrier.wait(30)
                try:
                    created.extend(handle.created for handle in queue.enqueue_many(tasks, idempotency_key=key))
                except BaseException as error:
                    failures.append(error)

    with psycopg.connect(migrated_database, autocommit=True) as observer:
        before = _deadlocks(observer)
        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        assert not failures
        assert sum(created) == rounds * width
        assert _deadlocks(observer) == before


def _deadlocks(observer: psycopg.Connection[Any]) -> int:
    observer.execute("SELECT pg_stat_clear_snapshot()")
    row = observer.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


async def test_the_async_client_does_the_same(async_queue: AsyncQueue):
    assert await async_queue.enqueue_many([]) == []
    handles = await async_queue.enqueue_many([Note(n=n) for n in range(MANY)], priority=5)
    assert await async_queue.depth() == MANY
    record = await async_queue.get(handles[7])
    assert record is not None
    assert (record.payload["n"], record.priority) == (7, 5)
    keyed = await async_queue.enqueue_many([Sync(user_id=1), Sync(user_id=1)])
    assert [handle.created for handle in keyed] == [True, False]
