"""Dead tasks: looked at, made ready again under the same id, deleted for ever."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import (
    AsyncQueue,
    ConfigurationError,
    KeyTaken,
    Queue,
    RetriedAll,
    Retry,
    Runner,
    Status,
    Task,
    TaskBusy,
    TaskDead,
    TaskNotFound,
    Unique,
    WrongStatus,
    dead_operations,
    task,
)
from pgqueue.database import run
from pgqueue.settings import Settings

NOWHERE = Queue("postgresql://127.0.0.1:1/nowhere")
Row = psycopg.Connection[Any]


class Note(Task[str]):
    name: str = "a"

    async def run(self) -> str:
        return f"noted {self.name}"


class Sole(Task):
    key: int = 0

    async def run(self) -> None: ...


@pytest.fixture(autouse=True)
def types() -> None:
    task(Note)
    task(unique=Unique(by=("key",)))(Sole)


def bury(connection: Row, where: str = "true", *, age: str = "0 s") -> None:
    """Tasks that wait are dead, with a failed attempt each, as after their last try."""
    connection.execute(
        f"""WITH ended AS (DELETE FROM pgqueue.task WHERE {where} RETURNING *), failed AS (
            INSERT INTO pgqueue.attempt (queue, task_id, type, attempt, finished_at, error_type, error)
            SELECT queue, id, type, 3, clock_timestamp(), 'ValueError', 'broke' FROM ended
        )
        INSERT INTO pgqueue.dead_task (queue, id, type, priority, payload, maturity_at, created_at, started_at, finished_at,
            attempt, crashes, claim_id, unique_key, tags, headers, options, lineage, error)
        SELECT queue, id, type, priority, payload, maturity_at, created_at, now(), clock_timestamp() - %s::interval, 3, 2,
            gen_random_uuid(), unique_key, tags, headers, options, lineage, 'ValueError: broke' FROM ended""",
        (age,),
    )


def count(connection: Row, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM pgqueue.{table}").fetchone()
    assert row is not None
    return int(row[0])


# ── one ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_retried_task_runs_again_under_its_id_with_a_new_budget_and_remembers_what_it_was(
    async_queue: AsyncQueue, drain: Callable[..., Awaitable[Runner]]
) -> None:
    tries: list[tuple[int, int]] = []
    broken = True

    @task(retry=Retry(max_attempts=2, initial=timedelta(0)))
    class Fragile(Task[str]):
        async def run(self) -> str:
            tries.append((self.context.attempt, self.tries))
            if broken:
                raise ValueError("no luck")
            return "luck"

    handle = await async_queue.enqueue(Fragile())
    await drain()
    with pytest.raises(TaskDead):
        await handle.result(timeout=1)
    again = await async_queue.dead.retry(handle)
    assert (again.id, await again.status(), await async_queue.dead.get(handle)) == (handle.id, Status.READY, None)
    await drain()
    broken = False
    await async_queue.dead.retry(handle)
    await drain()
    assert await handle.result(timeout=1) == "luck"
    assert tries == [(1, 0), (2, 1), (1, 0), (2, 1), (1, 0)]
    record = await async_queue.get(handle)
    assert record is not None
    lives = record.lineage["retries"]
    assert [(life["attempt"], life["error"]) for life in lives] == [(2, "ValueError: no luck")] * 2
    assert lives[0]["dead_at"] < lives[0]["retried_at"] < lives[1]["dead_at"]
    assert [attempt.attempt for attempt in await async_queue.attempts(handle)] == [1, 2, 1, 2]


def test_a_retried_task_keeps_all_that_its_enqueue_said_but_its_expiry_and_what_was_counted(
    queue: Queue, connection: Row
) -> None:
    handle = queue.enqueue(
        Sole(key=7), queue="mail", priority=150, tags=["a"], headers={"h": "1"}, timeout=timedelta(seconds=9),
        expires=timedelta(hours=1), idempotency_key="order-1",
    )  # fmt: skip
    connection.execute("""UPDATE pgqueue.task SET options = options || '{"undecodable": true}'""")
    bury(connection)
    queue.dead.retry(str(handle.id))
    row = connection.execute(
        """SELECT queue, status::text, priority, payload, tags, headers, options, expires_at, attempt, crashes, runner_id,
        unique_key IS NOT NULL, maturity_at > created_at, claim_id IS NOT NULL FROM pgqueue.task"""
    ).fetchone()
    expected = ("mail", "ready", 150, {"key": 7}, ["a"], {"h": "1"}, {"timeout": 9.0}, None, 0, 0, None, True, True, True)
    assert row == expected
    assert queue.enqueue(Sole(key=7), queue="mail").id == handle.id  # its unique key is held again
    assert (
        queue.enqueue(Sole(key=8), queue="mail", idempotency_key="order-1").id == handle.id
    )  # and its idempotency key is its own


def test_lineage_remembers_the_last_twenty_lives(queue: Queue, connection: Row) -> None:
    handle = queue.enqueue(Note())
    for _ in range(22):
        bury(connection)
        queue.dead.retry(handle)
    record = queue.get(handle)
    assert record is not None
    retried_ats = [life["retried_at"] for life in record.lineage["retries"]]
    assert len(retried_ats) == 20
    assert retried_ats == sorted(retried_ats)


def test_a_task_whose_unique_key_is_taken_stays_dead_and_the_error_names_the_holder(queue: Queue, connection: Row) -> None:
    first = queue.enqueue(Sole())
    bury(connection)
    holder = queue.enqueue(Sole())
    assert holder.created
    with pytest.raises(KeyTaken, match=rf"{first.id} is held in queue 'default' by the unfinished task {holder.id}") as refusal:
        queue.dead.retry(first)
    assert refusal.value.holder == holder.id
    assert (first.status(), holder.status()) == (Status.DEAD, Status.READY)
    assert queue.dead.retry_all() == RetriedAll(retried=0, skipped=1)
    bury(connection, f"id = '{holder.id}'")
    assert queue.dead.retry_all() == RetriedAll(retried=1, skipped=1)  # of two with one key the first comes back
    assert (first.status(), holder.status()) == (Status.READY, Status.DEAD)


def test_what_is_not_dead_is_not_retried_and_the_error_says_where_it_stands(queue: Queue, connection: Row) -> None:
    ready, cancelled = queue.enqueue(Note()), queue.enqueue(Note())
    cancelled.cancel()
    for handle, status in ((ready, Status.READY), (cancelled, Status.CANCELLED)):
        with pytest.raises(WrongStatus, match=f"note {handle.id} cannot be retried: it is {status}, not dead") as refusal:
            queue.dead.retry(handle)
        assert refusal.value.status is status
        assert queue.dead.get(handle) is None
    with pytest.raises(TaskNotFound, match="is not stored"):
        queue.dead.retry(uuid.uuid4())


def test_a_task_of_a_type_that_nobody_here_knows_is_retried_all_the_same(queue: Queue, connection: Row) -> None:
    connection.execute("INSERT INTO pgqueue.task (type, payload) VALUES ('of-another-program', '{\"a\": 1}')")
    bury(connection)
    (record,) = queue.dead.list(type="of-another-program")
    assert queue.dead.retry(record).type == "of-another-program"
    assert queue.depth() == 1


def test_a_retry_whose_answer_was_lost_is_still_a_success(queue: Queue, connection: Row) -> None:
    handle = queue.enqueue(Note())
    bury(connection)
    queue.dead.retry(handle)
    with queue._connection() as own, own.transaction():
        assert run(own, dead_operations.retry(queue._sql, handle.id, repeated=True)).inserted.id == handle.id


def test_a_retry_waits_for_a_key_that_is_being_taken_but_not_for_ever(
    queue: Queue, connection: Row, migrated_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = queue.enqueue(Sole())
    bury(connection)
    monkeypatch.setattr(dead_operations, "LOCK_WAIT", "50ms")
    with psycopg.connect(migrated_database) as other:
        taking = queue.enqueue(Sole(), connection=other)
        for retry in (lambda: queue.dead.retry(first), queue.dead.retry_all):
            with pytest.raises(TaskBusy, match="nothing was changed"):
                retry()
    assert taking.created
    with pytest.raises(KeyTaken):
        queue.dead.retry(first)


# ── many ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_filters_choose_what_is_listed_counted_retried_and_purged(queue: Queue, connection: Row) -> None:
    assert (queue.dead.count(), queue.dead.oldest_age()) == (0, None)
    old = [queue.enqueue(Note(), tags=["a", "b"]) for _ in range(3)]
    bury(connection, age="2 hours")
    mail = [queue.enqueue(Note(), queue="mail", tags=["a"]) for _ in range(2)]
    sole = queue.enqueue(Sole())
    bury(connection)
    waiting = queue.enqueue(Note())
    hour = timedelta(hours=1)

    assert queue.dead.count() == 6
    assert [queue.dead.count(type="NOTE"), queue.dead.count(queue="mail"), queue.dead.count(tags=["b"])] == [5, 2, 3]
    assert [queue.dead.count(older_than=hour), queue.dead.count(older_than=timedelta(days=365_000))] == [3, 0]
    oldest, younger = queue.dead.oldest_age(), queue.dead.oldest_age(queue="mail")
    assert oldest is not None
    assert younger is not None
    assert timedelta(hours=2) <= oldest < timedelta(hours=3)
    assert younger < hour

    first = queue.dead.list(limit=4)
    rest = queue.dead.list(limit=4, cursor=first.cursor)
    assert [record.id for record in (*first, *rest)] == [sole.id, mail[1].id, mail[0].id, old[2].id, old[1].id, old[0].id]
    assert rest.cursor is None
    assert {record.id for record in queue.dead.list(older_than=hour, type="note")} == {handle.id for handle in old}
    record = queue.dead.get(sole)
    assert record is not None
    assert (record.status, record.reason, record.attempt, record.payload) == (Status.DEAD, "ValueError: broke", 3, {"key": 0})

    assert queue.dead.retry_all(ids=[mail[0], str(old[0].id), waiting, uuid.uuid4()]) == RetriedAll(2, 0)
    assert queue.dead.retry_all(type="note", queue="mail") == RetriedAll(1, 0)
    assert queue.dead.retry_all(ids=[]) == RetriedAll(0, 0)
    assert count(connection, "attempt") == 6
    assert queue.dead.purge(tags=["a"], older_than=hour) == 2
    assert queue.dead.purge(ids=[waiting]) == 0
    assert (queue.dead.count(), count(connection, "attempt")) == (1, 4)
    assert old[1].status() is None
    assert queue.dead.purge(older_than=timedelta(0)) == 1
    assert count(connection, "attempt") == 3


def test_many_are_retried_in_batches_by_two_at_once_and_what_others_hold_is_left(
    queue: Queue, connection: Row, migrated_database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_operations, "BATCH", 50)
    # Keys in an order other than that of the ids: two that took them so would deadlock.
    connection.execute(
        """INSERT INTO pgqueue.dead_task (queue, id, type, priority, payload, maturity_at, created_at, finished_at, attempt,
        crashes, unique_key) SELECT 'default', pgqueue.new_id(), 'sole', 100, '{}', now(), now(), now(), 1, 0,
        sha256((n % 400)::text::bytea) FROM generate_series(1, 800) AS n"""
    )
    outcomes: list[RetriedAll] = []
    with psycopg.connect(migrated_database) as holding, Queue(migrated_database, settings=settings) as other:
        holding.execute("SELECT id FROM pgqueue.dead_task ORDER BY id LIMIT 10 FOR UPDATE")
        workers = [threading.Thread(target=lambda one=one: outcomes.append(one.dead.retry_all())) for one in (queue, other)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(40)
    assert len(outcomes) == 2
    # The ten that were held have a twin each, with the same key.
    assert sum(outcome.retried for outcome in outcomes) == queue.depth() == 400
    assert queue.dead.count() == 400
    assert queue.dead.retry_all() == RetriedAll(0, 400)


async def test_the_async_client_does_the_same(async_queue: AsyncQueue, connection: Row) -> None:
    handles = await async_queue.enqueue_many([Note()] * 5)
    bury(connection)
    dead = async_queue.dead
    assert (await dead.count(), len(await dead.list(limit=2))) == (5, 2)
    assert await dead.oldest_age() is not None
    assert (await dead.retry(handles[0])).id == handles[0].id
    assert await dead.retry_all(ids=handles[:3]) == RetriedAll(2, 0)
    assert await dead.purge(type="note") == 2
    with pytest.raises(WrongStatus):
        await dead.retry(handles[0])
    with pytest.raises(ConfigurationError):
        await dead.purge()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "a\0"}, "control character"),
        ({"queue": ""}, "queue takes a name"),
        ({"tags": "a"}, "tags takes a list"),
        ({"older_than": 5}, "older_than takes a timedelta"),
        ({"older_than": timedelta(-1)}, "older_than takes a timedelta"),
        ({"status": "dead"}, "dead tasks are chosen by type, queue, tags, older_than, not by 'status'"),
        ({"ids": "a"}, "ids takes a list"),
        ({"ids": ["a"]}, "is no task id"),
        ({"ids": [uuid.uuid4()] * 10_001}, "at most 10,000"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused_before_anything_is_sent(options: Any, message: str) -> None:
    calls = [NOWHERE.dead.retry_all, NOWHERE.dead.purge]
    if "ids" not in options:
        calls += [NOWHERE.dead.list, NOWHERE.dead.count, NOWHERE.dead.oldest_age]
    for call in calls:
        with pytest.raises(ConfigurationError, match=message):
            call(**options)


def test_other_input_that_makes_no_sense_is_refused_before_anything_is_sent() -> None:
    for call, message in (
        (lambda: NOWHERE.dead.purge(), "say which"),
        (lambda: NOWHERE.dead.list(limit=0), "limit takes"),
        (lambda: NOWHERE.dead.list(cursor="x"), "is no task id"),
        (lambda: NOWHERE.dead.get("x"), "is no task id"),
        (lambda: NOWHERE.dead.retry(None), "is no task id"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError, match=message):
            call()
