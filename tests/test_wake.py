"""Sleeping runners are told of tasks, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Runner, Scheduler, Status, Task, task
from pgqueue.listener import ARM_SECONDS, LOOKAHEAD_SECONDS
from pgqueue.migrations import migrate
from pgqueue.settings import Settings
from pgqueue.statements import Statement, statements
from tests.conftest import eventually

Row = psycopg.Connection[Any]
SQL = statements("pgqueue")
POLL_SECONDS = 5.0
SOON_SECONDS = 2.0
"""Well below the poll, and generous for a busy machine; a few milliseconds are the rule."""


@pytest.fixture
def settings() -> Settings:
    return Settings(lease="15s", heartbeat="5s", poll_interval=f"{POLL_SECONDS:g}s", app="test")  # type: ignore[arg-type]


@pytest.fixture
def ear(migrated_database: str) -> Iterator[Row]:
    """A connection that hears every notice."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("LISTEN pgqueue")
        yield connection


def heard(ear: Row) -> list[str]:
    """The notices that were committed before this call: the answer to a statement comes after them."""
    found: list[str] = []
    ear.add_notify_handler(handler := lambda notice: found.append(notice.payload))
    ear.execute("SELECT 1")
    ear.remove_notify_handler(handler)
    return found


def arm(connection: Row, seconds: float = 60.0) -> float:
    row = connection.execute(SQL.arm.text, {"seconds": seconds, "enough": seconds - 5}).fetchone()
    assert row is not None
    return float(row[0])


def flag_seconds(connection: Row) -> float:
    row = connection.execute("SELECT last_value - extract(epoch FROM clock_timestamp()) FROM pgqueue.wake").fetchone()
    assert row is not None
    return float(row[0])


def note() -> type[Task]:
    @task(name="note")
    class Note(Task):
        number: int = 0

        async def run(self) -> None: ...

    return Note


@asynccontextmanager
async def asleep(dsn: str, settings: Settings, connection: Row, **options: Any) -> Any:
    """A runner that has found nothing, has asked for notice and has looked once more."""
    async with Runner(AsyncQueue(dsn, schema=settings.db_schema, settings=settings), **options) as runner:
        listener = runner._running()._listener
        assert listener is not None
        await eventually(lambda: listener.is_resting and time.monotonic() < listener._lapses_at)
        assert flag_seconds(connection) > LOOKAHEAD_SECONDS
        yield runner


async def succeeded_within(handle: Any, seconds: float) -> None:
    await eventually(lambda: handle.status() is Status.SUCCEEDED, timeout=seconds)


# ── who is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_is_told_unless_somebody_asks(queue: Queue, connection: Row, ear: Row) -> None:
    Note = note()
    queue.enqueue(Note())
    queue.enqueue_many([Note(), Note()])
    queue.enqueue_many([Note()] * 400)
    assert heard(ear) == []
    arm(connection)
    queue.enqueue(Note())
    assert heard(ear) == ["default"]
    queue.enqueue_many([Note(), Note()])
    assert heard(ear) == ["default"]
    queue.enqueue_many([Note()] * 400)
    assert heard(ear) == ["default"]
    assert connection.execute(SQL.disarm.text).fetchone() is not None
    assert connection.execute(SQL.disarm.text).fetchone() is None
    queue.enqueue(Note())
    assert heard(ear) == []


def test_a_flag_that_has_passed_is_no_wish(queue: Queue, connection: Row, ear: Row) -> None:
    Note = note()
    connection.execute("SELECT setval('pgqueue.wake', extract(epoch FROM clock_timestamp())::bigint - 5)")
    queue.enqueue(Note())
    queue.enqueue_many([Note()] * 400)
    assert heard(ear) == []


def test_what_is_due_by_then_is_told_and_what_is_due_later_is_not(queue: Queue, connection: Row, ear: Row) -> None:
    Note = note()
    arm(connection)
    for many in (1, 3, 400):
        queue.enqueue_many([Note()] * many, delay=timedelta(hours=1))
        assert heard(ear) == []
        queue.enqueue_many([Note()] * many, delay=timedelta(seconds=2))
        assert heard(ear) == ["default"]
    queue.enqueue(Note(), delay=timedelta(hours=1))
    assert heard(ear) == []
    queue.enqueue(Note(), delay=timedelta(seconds=2))
    assert heard(ear) == ["default"]


@pytest.mark.parametrize("many", [1, 3, 400])
def test_notify_false_and_a_rollback_send_nothing(
    queue: Queue, connection: Row, ear: Row, migrated_database: str, many: int
) -> None:
    Note = note()
    arm(connection)
    queue.enqueue_many([Note()] * many, notify=False)
    queue.enqueue(Note(), notify=False)
    assert heard(ear) == []
    with psycopg.connect(migrated_database) as joined:
        queue.enqueue_many([Note()] * many, connection=joined)
        queue.enqueue(Note(), connection=joined)
        joined.rollback()
    assert heard(ear) == []
    with psycopg.connect(migrated_database) as joined:
        queue.enqueue_many([Note()] * many, connection=joined)
        queue.enqueue(Note(), connection=joined)
        assert heard(ear) == []
    assert heard(ear) == ["default"]


def test_one_statement_tells_each_queue_once(queue: Queue, connection: Row, ear: Row) -> None:
    Note = note()
    arm(connection)
    with queue._connection() as own, own.transaction():
        queue.enqueue_many([Note()] * 3, connection=own, queue="a")
        queue.enqueue_many([Note()] * 3, connection=own, queue="b")
    assert sorted(heard(ear)) == ["a", "b"]


def test_a_full_notification_queue_is_left_alone(queue: Queue, connection: Row, ear: Row, migrated_database: str) -> None:
    Note = note()
    arm(connection)
    full = "CREATE FUNCTION pgqueue.pg_notification_queue_usage() RETURNS float8 LANGUAGE sql VOLATILE AS 'SELECT 0.6'"
    connection.execute(full)
    with psycopg.connect(migrated_database, options="-c search_path=pgqueue,pg_catalog", autocommit=True) as joined:
        for many in (1, 3, 400):
            queue.enqueue_many([Note()] * many, connection=joined)
        queue.enqueue(Note(), connection=joined)
    assert heard(ear) == []
    queue.enqueue(Note())
    assert heard(ear) == ["default"]


async def test_a_firing_schedule_tells_too(migrated_database: str, settings: Settings, connection: Row, ear: Row) -> None:
    arm(connection)

    @task(name="tick", queue="ticks", frequency=timedelta(hours=1))
    class Tick(Task):
        async def run(self) -> None: ...

    async with Scheduler(AsyncQueue(migrated_database, settings=settings)):
        assert await eventually(lambda: heard(ear)) == ["ticks"]


# ── the flag ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_flag_moves_only_forward_and_only_where_little_is_left(connection: Row) -> None:
    assert 60 <= arm(connection, 60) < 61
    before = connection.execute("SELECT last_value FROM pgqueue.wake").fetchone()
    assert 59 < arm(connection, 60) < 61
    assert 59 < arm(connection, 10) < 61
    assert connection.execute("SELECT last_value FROM pgqueue.wake").fetchone() == before
    assert 90 <= arm(connection, 90) < 91


async def test_an_idle_fleet_asks_seldom(queue: Queue, migrated_database: str, settings: Settings, connection: Row) -> None:
    Note = note()
    handle = queue.enqueue(Note())
    polls = settings.model_copy(update={"poll_interval": timedelta(milliseconds=20)})
    async with asleep(migrated_database, polls, connection) as one, asleep(migrated_database, polls, connection) as other:
        await succeeded_within(handle, SOON_SECONDS)
        asked = [count_calls(runner._running()._listener, "_arm") for runner in (one, other)]
        claims = count_calls(one._running()._claiming._lanes[0][0], "claim")
        await eventually(lambda: len(claims) >= 20)
        assert asked == [[], []]
        assert flag_seconds(connection) < ARM_SECONDS + 1


def count_calls(thing: Any, name: str) -> list[float]:
    """When a method was called, from now on."""
    calls: list[float] = []
    original = getattr(thing, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(time.monotonic())
        return original(*arguments, **options)

    setattr(thing, name, counted)
    return calls


async def test_a_burst_beside_a_woken_runner_sends_few_notices(
    async_queue: AsyncQueue, migrated_database: str, settings: Settings, connection: Row, ear: Row
) -> None:
    Note = note()
    async with asleep(migrated_database, settings, connection) as runner:
        heard(ear)
        for number in range(600):
            await async_queue.enqueue(Note(number=number))
        await eventually(lambda: runner.stats().processed == 600)
    assert 1 <= len(heard(ear)) < 60


# ── a sleeping runner ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_sleeping_runner_starts_a_task_long_before_its_poll(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    Note = note()
    async with asleep(migrated_database, settings, connection):
        for _ in range(3):  # woken, asleep again, and woken again
            started_at = time.monotonic()
            await succeeded_within(queue.enqueue(Note()), SOON_SECONDS)
            assert time.monotonic() - started_at < SOON_SECONDS
            await eventually(lambda: flag_seconds(connection) > LOOKAHEAD_SECONDS, timeout=3)


@pytest.mark.parametrize("many", [1, 3, 400])
async def test_a_delay_shorter_than_the_poll_ends_on_time(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row, many: int
) -> None:
    Note = note()
    async with asleep(migrated_database, settings, connection):
        handles = queue.enqueue_many([Note()] * many, delay=timedelta(milliseconds=300))
        await succeeded_within(handles[-1], SOON_SECONDS)
        record = queue.get(handles[0])
        assert record is not None
        assert record.started_at is not None
        assert record.started_at >= record.maturity_at


async def test_what_came_just_before_the_runner_asked_is_found_by_looking_once_more(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    """The task comes when the last poll has been made and the flag is not yet set."""
    Note = note()
    handles: list[Any] = []
    async with Runner(AsyncQueue(migrated_database, settings=settings)) as runner:
        listener = runner._running()._listener
        assert listener is not None
        original = listener._arm

        async def late(link: Any) -> None:
            if not handles:
                handles.append(await asyncio.to_thread(queue.enqueue, Note()))
                handles.append(await asyncio.to_thread(queue.enqueue, Note(), delay=timedelta(milliseconds=300)))
            await original(link)

        listener._arm = late  # type: ignore[method-assign]
        await eventually(lambda: len(handles) == 2)
        for handle in handles:
            await succeeded_within(handle, SOON_SECONDS)


async def test_inserted_before_the_flag_and_committed_after_it_is_found_by_the_poll(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row, ear: Row
) -> None:
    Note = note()
    polls = settings.model_copy(update={"poll_interval": timedelta(milliseconds=500)})
    with psycopg.connect(migrated_database) as joined:
        handle = queue.enqueue(Note(), connection=joined)
        async with asleep(migrated_database, polls, connection):
            joined.commit()
            await succeeded_within(handle, 5.0)
            assert heard(ear) == []


async def test_a_runner_without_a_listener_polls(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    Note = note()
    quiet = settings.model_copy(update={"listen": False, "poll_interval": timedelta(milliseconds=300)})
    async with Runner(AsyncQueue(migrated_database, settings=quiet)) as runner:
        claims = count_calls(runner._running()._claiming._lanes[0][0], "claim")
        queue.enqueue(Note(number=1))
        await eventually(lambda: len(claims) > 12)  # it has fallen asleep
        await succeeded_within(queue.enqueue(Note(number=2)), SOON_SECONDS)
        await succeeded_within(queue.enqueue(Note(), delay=timedelta(milliseconds=100)), SOON_SECONDS)
        assert flag_seconds(connection) < 0
        names = connection.execute("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()").fetchall()
        assert ("pgqueue listener",) not in names


async def test_several_queues_a_new_one_and_one_of_another_runner(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    Note = note()
    async with (
        asleep(migrated_database, settings, connection, queues=["a", "b"]),
        asleep(migrated_database, settings, connection, queues=["c"]),
    ):
        for name in "abcab":
            await succeeded_within(queue.enqueue(Note(), queue=name), SOON_SECONDS)
        async with asleep(migrated_database, settings, connection):
            await succeeded_within(queue.enqueue(Note(), queue="new"), SOON_SECONDS)


async def test_a_listener_whose_connection_is_killed_listens_again(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    Note = note()
    async with asleep(migrated_database, settings, connection) as runner:
        link = runner._running()._links[-1]
        for _ in range(2):
            before = link.connect_count
            killed = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'pgqueue listener' AND datname = current_database()"
            ).fetchall()
            assert killed == [(True,)]
            handle = queue.enqueue(Note())  # nobody hears it: looking after the reconnect finds it
            await eventually(lambda before=before: link.connect_count > before)
            await succeeded_within(handle, SOON_SECONDS)
            await eventually(lambda: flag_seconds(connection) > LOOKAHEAD_SECONDS)
            await succeeded_within(queue.enqueue(Note()), SOON_SECONDS)


@pytest.mark.parametrize("schema", ["Odd \"schema\" 100% 'quoted'; --", "日本語", "{schema} \\ é"])
async def test_the_schema_may_have_any_name(empty_database: str, settings: Settings, schema: str) -> None:
    Note = note()
    migrate(empty_database, schema=schema)
    odd = settings.model_copy(update={"db_schema": schema})
    with Queue(empty_database, schema=schema, settings=odd) as queue:
        async with Runner(AsyncQueue(empty_database, schema=schema, settings=odd)) as runner:
            listener = runner._running()._listener
            assert listener is not None
            await eventually(lambda: listener.is_resting and time.monotonic() < listener._lapses_at)
            await succeeded_within(queue.enqueue(Note()), SOON_SECONDS)
            await succeeded_within(queue.enqueue_many([Note()] * 400)[0], SOON_SECONDS)
            await succeeded_within(queue.enqueue(Note(), delay=timedelta(milliseconds=200)), SOON_SECONDS)


# ── plans ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_promotion_does_not_read_the_tasks_of_the_future(connection: Row) -> None:
    connection.execute(
        "INSERT INTO pgqueue.task (type, maturity_at) SELECT 'note', now() + interval '1 day' FROM generate_series(1, 20000)"
    )
    assert buffers(connection, SQL.promote, {"queue": "default", "types": ["note"], "limit": 1000}) < 100
    connection.execute("ANALYZE pgqueue.task")
    assert buffers(connection, SQL.promote, {"queue": "default", "types": ["note"], "limit": 1000}) < 100


def buffers(connection: Row, statement: Statement, parameters: dict[str, Any]) -> int:
    """Pages that a statement touches."""
    row = connection.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) " + statement.text, {"now": None, **parameters}).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
