"""Upkeep: promotion, expiry, forgetting, partitions; by any runner, and by several at once."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Runner, Status, Task, task
from pgqueue.database import connection_parameters
from pgqueue.link import Link
from pgqueue.maintenance import Promotion, Sweeps
from pgqueue.settings import Settings
from pgqueue.statements import statements
from tests.conftest import eventually

Drain = Callable[..., Awaitable[Runner]]
Row = psycopg.Connection[Any]
SQL = statements("pgqueue")


@pytest.fixture
async def link(migrated_database: str) -> AsyncIterator[Link]:
    link = Link(connection_parameters(migrated_database), name="test", deadline_seconds=10)
    yield link
    await link.drop()


def promotion(link: Link, *, queues: list[str] | None = None, poll_seconds: float = 1.0) -> tuple[Promotion, list[Any]]:
    """A promotion and what it has told."""
    told: list[Any] = []
    names = ["default"] if queues is None else queues
    made = Promotion(
        SQL,
        link,
        types=["note"],
        poll_seconds=poll_seconds,
        queues=lambda: names,
        on_promoted=lambda queue, keys: told.append((queue, keys)),
    )
    return made, told


def count(connection: Row, where: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM pgqueue.{where}").fetchone()
    assert row is not None
    return int(row[0])


def note() -> Task:
    @task(name="note")
    class Note(Task):
        async def run(self) -> None: ...

    return Note()


# ── promotion ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_two_runners_promote_each_due_task_once_and_the_rest_stays(
    migrated_database: str, link: Link, connection: Row
) -> None:
    connection.execute(
        "INSERT INTO pgqueue.task (type, maturity_at) SELECT 'note', now() + CASE WHEN n <= 3000 THEN '-1 s' ELSE '1 h' END::interval"
        " FROM generate_series(1, 4000) AS n"
    )
    other_link = Link(connection_parameters(migrated_database), name="other", deadline_seconds=10)
    (one, told), (other, told_other) = promotion(link), promotion(other_link)

    async def promote_all(promotion: Promotion) -> None:
        promotion.look()
        while await promotion.promote() == 0.0:
            pass

    await asyncio.gather(promote_all(one), promote_all(other))
    await promote_all(one)
    await other_link.drop()
    assert (count(connection, "task WHERE status = 'ready'"), count(connection, "task WHERE status = 'scheduled'")) == (
        3000,
        1000,
    )
    assert told + told_other


async def test_a_promotion_tells_the_first_key_of_each_priority(link: Link, connection: Row) -> None:
    early = datetime(2026, 1, 1, tzinfo=UTC)
    for priority, hours in ((5, 2), (5, 1), (7, 3)):
        connection.execute(
            "INSERT INTO pgqueue.task (type, priority, maturity_at) VALUES ('note', %s, %s)",
            (priority, early + timedelta(hours=hours)),
        )
    one, told = promotion(link)
    await one.promote()
    [(queue, keys)] = told
    assert queue == "default"
    assert [(priority, maturity_at) for priority, maturity_at, _ in keys] == [
        (5, early + timedelta(hours=1)),
        (7, early + timedelta(hours=3)),
    ]


async def test_it_sleeps_until_the_next_is_due_and_no_longer_than_the_poll(queue: Queue, link: Link) -> None:
    queue.enqueue(note(), delay=timedelta(milliseconds=300))
    one, _ = promotion(link)
    assert 0.1 < await one.promote() <= 0.3
    empty, _ = promotion(link, queues=["empty"])
    assert 0.7 < await empty.promote() <= 1.0


async def test_a_due_task_that_somebody_holds_locked_does_not_make_it_spin(
    queue: Queue, link: Link, connection: Row, migrated_database: str
) -> None:
    connection.execute("INSERT INTO pgqueue.task (type) VALUES ('note')")
    one, _ = promotion(link)
    with psycopg.connect(migrated_database) as holder:
        holder.execute("SELECT FROM pgqueue.task FOR UPDATE")
        assert await one.promote() >= 0.05
    one.look()
    await one.promote()
    assert count(connection, "task WHERE status = 'ready'") == 1


async def test_an_expected_task_is_looked_for_when_it_is_due_and_not_at_the_next_poll(link: Link, connection: Row) -> None:
    one, told = promotion(link, poll_seconds=30.0)
    stop = asyncio.Event()
    running = asyncio.create_task(one.run(stop))
    await eventually(lambda: link.connect_count == 1)
    connection.execute("INSERT INTO pgqueue.task (type, maturity_at) VALUES ('note', clock_timestamp() + interval '50 ms')")
    one.expect("default", 0.05)
    one.expect("default", 20.0)
    await eventually(lambda: told, timeout=3)
    stop.set()
    await asyncio.wait_for(running, 3)


async def test_a_type_spelt_differently_by_hand_becomes_canonical_and_runs(queue: Queue, connection: Row, drain: Drain) -> None:
    ran: list[int] = []

    @task
    class SendEmail(Task):
        number: int = 0

        async def run(self) -> None:
            ran.append(self.number)

    for number, name in enumerate(["send-email", "SendEmail", "SEND_EMAIL"]):
        connection.execute(
            "INSERT INTO pgqueue.task (type, payload) VALUES (%s, jsonb_build_object('number', %s::int))", (name, number)
        )
    await drain()
    assert sorted(ran) == [0, 1, 2]
    assert connection.execute("SELECT DISTINCT type FROM pgqueue.history").fetchall() == [("send-email",)]


async def test_a_plain_insert_from_sql_is_an_enqueue(connection: Row, drain: Drain) -> None:
    note()
    connection.execute("""INSERT INTO pgqueue.task (type, payload) VALUES ('note', '{}')""")
    await drain()
    assert count(connection, "history WHERE status = 'succeeded'") == 1


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_expired_tasks_are_cancelled_idempotency_keys_forgotten_and_the_rest_is_kept(
    queue: Queue, link: Link, connection: Row, settings: Settings
) -> None:
    hour, one = timedelta(hours=1), note()
    waiting, fresh, delayed = (queue.enqueue(one, expires=hour * 3, delay=delay) for delay in (None, None, hour * 2))
    keys = [queue.enqueue(one, idempotency_key=key) for key in ("old", "new")]
    connection.execute(
        "UPDATE pgqueue.task SET expires_at = now() - interval '1 s' WHERE id = ANY(%s)", ([waiting.id, delayed.id],)
    )
    connection.execute("UPDATE pgqueue.idempotency SET expires_at = now() - interval '1 s' WHERE task_id = %s", (keys[0].id,))
    await Sweeps(SQL, link, settings).sweep()
    assert [handle.status() for handle in (waiting, delayed, fresh)] == [Status.CANCELLED, Status.CANCELLED, Status.READY]
    assert connection.execute("SELECT task_id FROM pgqueue.idempotency").fetchall() == [(keys[1].id,)]
    record = queue.get(waiting)
    assert record is not None
    assert record.reason == "expired before it was started"


HISTORY = (
    "INSERT INTO pgqueue.history (queue, id, type, status, priority, payload, maturity_at, created_at, finished_at, attempt, crashes)"
    " SELECT 'default', gen_random_uuid(), %s, 'succeeded', 100, '{}', now(), now(), now() - make_interval(hours => %s), 1, 0"
    " FROM generate_series(1, %s)"
)


async def test_what_is_older_than_its_retention_goes(link: Link, connection: Row) -> None:
    settings = Settings(history_retention="3d", dead_retention="5d")  # type: ignore[arg-type]
    connection.execute(HISTORY, ("note", 24 * 6, 10))
    connection.execute(HISTORY, ("note", 1, 10))
    connection.execute(HISTORY, ("brief", 5, 2_500))
    connection.execute(HISTORY, ("brief", 0, 3))
    for days in (4, 8):
        connection.execute(
            "INSERT INTO pgqueue.dead_task (queue, id, type, priority, payload, maturity_at, created_at, finished_at, attempt, crashes)"
            " SELECT 'default', gen_random_uuid(), 'note', 100, '{}', now(), now(), now() - make_interval(days => %s), 1, 0",
            (days,),
        )
        connection.execute(
            "INSERT INTO pgqueue.attempt (queue, task_id, type, attempt, finished_at, error_type, error)"
            " VALUES ('default', gen_random_uuid(), 'note', 1, now() - make_interval(days => %s), 'E', 'e')",
            (days,),
        )
    await Sweeps(SQL, link, settings, {"brief": timedelta(hours=2)}).sweep()
    assert count(connection, "history WHERE type = 'note'") == 10
    assert count(connection, "history WHERE type = 'brief'") == 3
    assert count(connection, "dead_task") == 1
    # What a dead task failed with is kept for as long as the task.
    assert count(connection, "attempt") == 1


async def test_a_running_runner_makes_the_partitions_of_the_days_to_come(
    queue: Queue, connection: Row, migrated_database: str, settings: Settings
) -> None:
    drop_partitions(connection)
    note()
    async with Runner(AsyncQueue(migrated_database, settings=settings)):
        await eventually(lambda: partitions_ahead(connection) >= 9)


def partitions_ahead(connection: Row) -> int:
    """Partitions whose day lies ahead, of whatever table."""
    row = connection.execute(
        "SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE relkind = 'r' AND substring(pg_get_expr(relpartbound, pg_class.oid) FROM $$FROM \\('([^']+)'$$)::timestamptz > now()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def drop_partitions(connection: Row) -> None:
    """All but the default ones."""
    names = connection.execute(
        "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE relkind = 'r' AND relname NOT LIKE '%_default'"
    ).fetchall()
    for (name,) in names:
        connection.execute(f'DROP TABLE pgqueue."{name}"')


async def test_partitions_that_could_not_be_had_are_tried_again_with_the_next_sweep(
    link: Link, connection: Row, settings: Settings, migrated_database: str
) -> None:
    sweeps = Sweeps(SQL, link, settings)
    await sweeps.sweep()
    assert sweeps._partitions_at > time.monotonic()
    again = Sweeps(SQL, link, settings)
    drop_partitions(connection)
    with psycopg.connect(migrated_database) as holder:
        holder.execute("LOCK TABLE pgqueue.history IN ROW EXCLUSIVE MODE")  # as an insert does
        await again.sweep()
    assert again._partitions_at == 0.0
    await again.sweep()
    assert again._partitions_at > time.monotonic()


async def test_upkeep_outlives_the_loss_of_its_connection(link: Link, connection: Row, settings: Settings) -> None:
    one, told = promotion(link, poll_seconds=0.02)
    stop = asyncio.Event()
    running = asyncio.create_task(one.run(stop))
    for _ in range(3):
        await eventually(lambda: link._connection is not None)
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgqueue test' AND datname = current_database()"
        )
        told.clear()
        connection.execute("INSERT INTO pgqueue.task (type) VALUES ('note')")
        await eventually(lambda: told)
    stop.set()
    await asyncio.wait_for(running, 3)
    assert count(connection, "task WHERE status = 'ready'") == 3
    assert uuid.UUID(told[0][1][0][2])
