"""The daily partitions: made ahead, dropped by age, and never in the way of those who insert."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from pgqueue import partitions, steps
from pgqueue.errors import ConfigurationError

Connection = psycopg.Connection[tuple[object, ...]]

INSERT = """
INSERT INTO pgqueue.history
    (queue, id, type, status, priority, payload, maturity_at, created_at, finished_at, attempt, crashes)
SELECT 'default', gen_random_uuid(), 'T', 'succeeded', 100, '{}', now(), now(), coalesce(%s::timestamptz, clock_timestamp()), 1, 0
FROM generate_series(1, %s)
"""
STALL_SECONDS_MAX = 1.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "PAUSE_SECONDS", (0.01, 0.05))


@pytest.fixture
def database(migrated_database: str) -> str:
    """Migrated, and without any partition but the default ones."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        for table, _ in partitions.PARENTS:
            for name in attached(connection, table):
                connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("pgqueue", name)))
    return migrated_database


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def attached(connection: Connection, table: str = "history") -> list[str]:
    """The names of a table's partitions but for the default one."""
    rows = connection.execute(
        "SELECT relname::text FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = %s::regclass ORDER BY relname",
        [f"pgqueue.{table}"],
    ).fetchall()
    return [str(name) for (name,) in rows if not str(name).endswith("_default")]


def today() -> date:
    return datetime.now(UTC).date()


def days(table: str, *offsets: int) -> list[str]:
    return [f"{table}_{today() + timedelta(days=n):%Y%m%d}" for n in offsets]


def count(connection: Connection, table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("pgqueue", table))).fetchone()
    assert row is not None
    return int(str(row[0]))


def guards(connection: Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT conname FROM pg_constraint WHERE conname LIKE 'pgqueue_without_%'").fetchall()


@contextmanager
def inserting(dsn: str) -> Iterator[list[float]]:
    """Two clients that insert finished tasks all the while; how long each insert took. An error in one is raised here."""
    stop = threading.Event()
    seconds: list[float] = []
    begun = threading.Barrier(3)

    def insert() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(INSERT, (None, 1))
            begun.wait(30)
            while not stop.is_set():
                started = time.perf_counter()
                connection.execute(INSERT, (None, 3))
                seconds.append(time.perf_counter() - started)

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(insert) for _ in range(2)]
        begun.wait(30)
        try:
            yield seconds
        finally:
            stop.set()
        for client in clients:
            client.result(30)


def test_today_and_the_coming_days_are_made_once(connection: Connection) -> None:
    made = steps.run(connection, partitions.ensure(days_ahead=3))
    for table, _ in partitions.PARENTS:
        assert attached(connection, table) == days(table, 0, 1, 2, 3)
    assert sorted(made.made) == sorted(name for table, _ in partitions.PARENTS for name in days(table, 0, 1, 2, 3))
    assert steps.run(connection, partitions.ensure(days_ahead=3)) == partitions.Ensured()


def test_days_are_utc_whatever_the_session_says(connection: Connection) -> None:
    connection.execute("SET timezone = 'Pacific/Kiritimati'")  # 14 hours ahead
    connection.execute("SET datestyle = 'ISO, DMY'")
    steps.run(connection, partitions.ensure(days_ahead=0, now=datetime(2030, 5, 6, 23, 59, tzinfo=UTC)))
    connection.execute(INSERT, (datetime(2030, 5, 6, 0, 0, tzinfo=UTC), 1))
    connection.execute(INSERT, (datetime(2030, 5, 7, 0, 0, tzinfo=UTC), 1))
    assert count(connection, "history_20300506") == 1
    assert count(connection, "history_default") == 1
    retained = steps.run(connection, partitions.retain("history", older_than=datetime(2030, 5, 7, tzinfo=UTC)))
    assert retained == partitions.Retained(("history_20300506",))


def test_a_partition_has_the_indexes_and_rules_of_its_table(connection: Connection) -> None:
    steps.run(connection, partitions.ensure(days_ahead=0))
    query = "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c' ORDER BY conname"
    child, parent = f"pgqueue.{days('history', 0)[0]}", "pgqueue.history"
    assert connection.execute(query, [child]).fetchall() == connection.execute(query, [parent]).fetchall()
    loose = connection.execute(
        "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = %s::regclass AND NOT EXISTS "
        "(SELECT FROM pg_inherits WHERE inhrelid = indexrelid)",
        [child],
    ).fetchall()
    assert loose == []


def test_rows_that_fell_into_the_default_move_to_their_day(connection: Connection) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    connection.execute(INSERT, (None, 50))
    connection.execute(INSERT, (yesterday, 5))
    made = steps.run(connection, partitions.ensure())
    assert made.moved_count == 50
    assert count(connection, days("history", 0)[0]) == 50
    assert count(connection, "history_default") == 5
    assert count(connection, "history") == 55


def test_many_at_once_make_each_partition_once(database: str, connection: Connection) -> None:
    def ensure(_: int) -> partitions.Ensured:
        with psycopg.connect(database, autocommit=True) as own:
            return steps.run(own, partitions.ensure())

    with ThreadPoolExecutor(10) as pool:
        outcomes = list(pool.map(ensure, range(10)))
    made = [name for outcome in outcomes for name in outcome.made]
    assert len(made) == len(set(made)) == 12
    assert attached(connection) == days("history", 0, 1, 2, 3)
    assert all(not outcome.postponed for outcome in outcomes)


def hold_snapshot(connection: Connection) -> None:
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.execute("SELECT count(*) FROM pgqueue.task")


def read_history(connection: Connection) -> None:
    connection.execute("SELECT count(*) FROM pgqueue.history")


def insert_into_history(connection: Connection) -> None:
    connection.execute(INSERT, (None, 1))


@pytest.mark.parametrize("hold", [hold_snapshot, read_history, insert_into_history])
@pytest.mark.parametrize("today_is_missing", [True, False])
def test_making_does_not_hold_up_inserts(
    database: str, connection: Connection, hold: Callable[[Connection], None], today_is_missing: bool
) -> None:
    if not today_is_missing:
        steps.run(connection, partitions.ensure(days_ahead=0))
    with psycopg.connect(database) as holder:
        hold(holder)
        with inserting(database) as seconds:
            steps.run(connection, partitions.ensure())
    assert max(seconds) < STALL_SECONDS_MAX
    steps.run(connection, partitions.ensure())
    assert attached(connection) == days("history", 0, 1, 2, 3)


@pytest.mark.parametrize("hold", [hold_snapshot, read_history, insert_into_history])
def test_dropping_does_not_hold_up_inserts(database: str, connection: Connection, hold: Callable[[Connection], None]) -> None:
    old = datetime.now(UTC) - timedelta(days=9)
    steps.run(connection, partitions.ensure(days_ahead=1, now=old))
    connection.execute(INSERT, (old, 100))
    steps.run(connection, partitions.ensure())
    with psycopg.connect(database) as holder:
        hold(holder)
        with inserting(database) as seconds:
            steps.run(connection, partitions.retain("history", older_than=datetime.now(UTC) - timedelta(days=7)))
    assert max(seconds) < STALL_SECONDS_MAX
    steps.run(connection, partitions.retain("history", older_than=datetime.now(UTC) - timedelta(days=7)))
    assert attached(connection) == days("history", 0, 1, 2, 3)


def test_no_insert_fails_when_the_partition_of_today_appears(database: str, connection: Connection) -> None:
    for _ in range(5):
        with inserting(database) as seconds:
            steps.run(connection, partitions.ensure(days_ahead=0))
        assert seconds
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("pgqueue", *days("history", 0))))


def test_what_is_in_use_is_postponed_and_said_so(database: str, connection: Connection) -> None:
    with psycopg.connect(database) as holder:
        read_history(holder)
        outcome = steps.run(connection, partitions.ensure(days_ahead=0))
    assert set(outcome.made) == {*days("attempt", 0), *days("task_log", 0)}
    assert len(outcome.postponed) == 1
    assert "in use by another transaction" in outcome.postponed[0]


def test_a_table_that_is_not_attached_is_left_alone(connection: Connection) -> None:
    archive = days("history", 0)[0]
    connection.execute(sql.SQL("CREATE TABLE {} (kept text)").format(sql.Identifier("pgqueue", archive)))
    outcome = steps.run(connection, partitions.ensure(days_ahead=1))
    assert attached(connection) == days("history", 1)
    assert outcome.postponed == (f'{archive}: relation "{archive}" already exists',)
    steps.run(connection, partitions.retain("history", older_than=datetime.now(UTC) + timedelta(days=1)))
    assert count(connection, archive) == 0


def test_beside_a_large_default_partition_only_days_ahead_are_made(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.execute(INSERT, (None, 100))
    monkeypatch.setattr(partitions, "SMALL_BYTES", 0)
    outcome = steps.run(connection, partitions.ensure(days_ahead=3))
    assert attached(connection) == days("history", 2, 3)
    assert len(outcome.postponed) == 6
    assert count(connection, "history_default") == 100
    assert guards(connection) == []


def test_a_row_of_the_future_keeps_its_day_from_being_guarded(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    connection.execute(INSERT, (datetime.now(UTC) + timedelta(days=2), 1))
    monkeypatch.setattr(partitions, "SMALL_BYTES", 0)
    steps.run(connection, partitions.ensure(days_ahead=3))
    assert attached(connection) == days("history", 3)
    assert guards(connection) == []


def test_a_guard_that_a_killed_process_left_is_removed(connection: Connection) -> None:
    name = sql.Identifier(f"pgqueue_without_{today():%Y%m%d}")
    connection.execute(
        sql.SQL("ALTER TABLE pgqueue.history_default ADD CONSTRAINT {} CHECK (finished_at < now()) NOT VALID").format(name)
    )
    steps.run(connection, partitions.ensure())
    assert guards(connection) == []
    assert attached(connection) == days("history", 0, 1, 2, 3)


def test_a_guard_at_work_is_not_disturbed(database: str, connection: Connection) -> None:
    name = f"pgqueue_without_{today() + timedelta(days=2):%Y%m%d}"
    connection.execute(
        sql.SQL("ALTER TABLE pgqueue.history_default ADD CONSTRAINT {} CHECK (true) NOT VALID").format(sql.Identifier(name))
    )
    with psycopg.connect(database) as validator:
        validator.execute("LOCK TABLE pgqueue.history_default IN SHARE UPDATE EXCLUSIVE MODE")
        steps.run(connection, partitions.ensure(days_ahead=0))
        assert guards(connection) == [(name,)]


@pytest.mark.parametrize("table", [table for table, _ in partitions.PARENTS])
def test_only_partitions_that_are_old_and_ours_are_dropped(connection: Connection, table: str) -> None:
    midnight = datetime.combine(today(), datetime.min.time(), UTC)
    steps.run(connection, partitions.ensure(days_ahead=3, now=midnight - timedelta(days=10)))
    connection.execute(
        sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')").format(
            sql.Identifier("pgqueue", f"{table}_archive"), sql.Identifier("pgqueue", table)
        )
    )
    outcome = steps.run(connection, partitions.retain(table, older_than=midnight - timedelta(days=7, seconds=1)))
    assert list(outcome.dropped) == days(table, -10, -9)
    assert attached(connection, table) == [*days(table, -8, -7), f"{table}_archive"]


def test_old_rows_of_the_default_partition_are_deleted_in_batches(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "DELETE_BATCH", 7)
    now = datetime.now(UTC)
    connection.execute(INSERT, (now - timedelta(days=40), 30))
    connection.execute(INSERT, (now, 4))
    outcome = steps.run(connection, partitions.retain("history", older_than=now - timedelta(days=7)))
    assert outcome == partitions.Retained(deleted_count=30)
    assert count(connection, "history") == 4


def test_rows_that_somebody_holds_are_left_for_the_next_time(database: str, connection: Connection) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    connection.execute(INSERT, (old, 3))
    with psycopg.connect(database) as holder:
        holder.execute("SELECT FROM pgqueue.history_default LIMIT 1 FOR UPDATE")
        assert steps.run(connection, partitions.retain("history", older_than=old + timedelta(days=1))).deleted_count == 2
    assert steps.run(connection, partitions.retain("history", older_than=old + timedelta(days=1))).deleted_count == 1


def test_a_partition_that_is_read_is_dropped_the_next_time(database: str, connection: Connection) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    steps.run(connection, partitions.ensure(days_ahead=0, now=old))
    connection.execute(INSERT, (old, 3))
    name = f"history_{old:%Y%m%d}"
    with psycopg.connect(database) as holder:
        read_history(holder)
        outcome = steps.run(connection, partitions.retain("history", older_than=old + timedelta(days=2)))
        assert outcome.dropped == ()
        assert name in outcome.postponed[0]
    assert steps.run(connection, partitions.retain("history", older_than=old + timedelta(days=2))).dropped == (name,)


def test_a_long_insert_keeps_a_partition_from_being_dropped_but_not_emptied(database: str, connection: Connection) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    steps.run(connection, partitions.ensure(days_ahead=0, now=old))
    connection.execute(INSERT, (old, 3))
    with psycopg.connect(database) as holder:
        insert_into_history(holder)
        assert steps.run(connection, partitions.retain("history", older_than=old + timedelta(days=2))).dropped == ()
        assert count(connection, "history") == 0


async def drive(dsn: str) -> tuple[partitions.Ensured, partitions.Retained]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        ensured = await steps.arun(connection, partitions.ensure())
        retained = await steps.arun(connection, partitions.retain("history", older_than=datetime.now(UTC) + timedelta(days=2)))
    return ensured, retained


def test_the_async_driver_does_the_same(database: str, connection: Connection) -> None:
    connection.execute(INSERT, (None, 5))
    ensured, retained = asyncio.run(drive(database))
    assert len(ensured.made) == 12
    assert ensured.moved_count == 5
    assert list(retained.dropped) == days("history", 0, 1)


def test_a_schema_that_is_not_there_has_nothing_to_make_or_drop(connection: Connection) -> None:
    assert steps.run(connection, partitions.ensure(schema="elsewhere")) == partitions.Ensured()
    retain = partitions.retain("attempt", schema="elsewhere", older_than=datetime.now(UTC))
    assert steps.run(connection, retain) == partitions.Retained()


def test_a_connection_in_a_transaction_is_refused(database: str) -> None:
    with psycopg.connect(database) as connection, pytest.raises(ConfigurationError, match="autocommit"):
        steps.run(connection, partitions.ensure())


@pytest.mark.parametrize(("table", "instant"), [("task", datetime.now(UTC)), ("history", datetime(2020, 1, 1))])  # noqa: DTZ001
def test_retain_takes_a_partitioned_table_and_an_instant_with_a_zone(
    connection: Connection, table: str, instant: datetime
) -> None:
    with pytest.raises(ConfigurationError, match="instant with a timezone"):
        steps.run(connection, partitions.retain(table, older_than=instant))
