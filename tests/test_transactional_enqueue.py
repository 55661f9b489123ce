"""Enqueueing in the caller's transaction: the task exists if and only if what it belongs to does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor, IsolationLevel
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from pgqueue import AsyncQueue, ConfigurationError, DatabaseUnavailable, Queue, SchemaError, Task, Unique, task
from pgqueue.settings import Settings
from tests.conftest import wait_until


class Note(Task):
    n: int = 0

    async def run(self) -> None: ...


class Sync(Task):
    user_id: int = 0

    async def run(self) -> None: ...


@pytest.fixture(autouse=True)
def types() -> None:
    task(Note)
    task(unique=Unique(by=("user_id",)))(Sync)


@pytest.fixture
def own(migrated_database: str) -> Iterator[psycopg.Connection[Any]]:
    """The caller's connection, with a table of the caller's."""
    with psycopg.connect(migrated_database) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        connection.commit()
        yield connection
        if not connection.closed:
            connection.rollback()


def test_the_task_is_there_when_the_caller_commits_and_not_before(queue: Queue, own: psycopg.Connection[Any]):
    own.execute("INSERT INTO orders VALUES (1)")
    handle = queue.enqueue(Note(), connection=own)
    many = queue.enqueue_many([Note()] * 301, connection=own)
    assert handle.created
    assert handle.status() is None
    assert queue.depth() == 0
    assert own.info.transaction_status == TransactionStatus.INTRANS
    own.commit()
    assert handle.status() == "ready"
    assert many[300].status() == "ready"
    assert queue.depth() == 302


def test_a_rollback_leaves_no_task(queue: Queue, own: psycopg.Connection[Any]):
    own.execute("INSERT INTO orders VALUES (1)")
    handles = [
        queue.enqueue(Note(), connection=own),
        queue.enqueue(Sync(), connection=own),
        queue.enqueue(Note(), connection=own, idempotency_key="k"),
        *queue.enqueue_many([Sync(user_id=n) for n in range(5)], connection=own),
        queue.enqueue_by_name("note", connection=own),
    ]
    own.rollback()
    assert [handle.status() for handle in handles] == [None] * len(handles)
    assert queue.depth() == 0
    assert queue.enqueue(Note(), idempotency_key="k").created


def test_a_rollback_to_a_savepoint_takes_back_what_came_after_it(queue: Queue, own: psycopg.Connection[Any]):
    kept = queue.enqueue(Note(), connection=own)
    with pytest.raises(LookupError), own.transaction():
        lost = queue.enqueue(Sync(), connection=own)
        raise LookupError
    own.commit()
    assert kept.status() == "ready"
    assert lost.status() is None
    assert queue.enqueue(Sync()).created


def test_outside_of_a_transaction_an_autocommit_connection_commits_each_call(queue: Queue, connection: psycopg.Connection[Any]):
    assert queue.enqueue(Note(), connection=connection, idempotency_key="k").status() == "ready"
    assert len(queue.enqueue_many([Note(), Sync()], connection=connection)) == 2
    assert connection.info.transaction_status == TransactionStatus.IDLE
    with pytest.raises(ZeroDivisionError), connection.transaction():
        queue.enqueue(Note(), connection=connection)
        raise ZeroDivisionError
    assert queue.depth() == 3


def test_a_connection_in_an_aborted_transaction_gives_the_drivers_error(queue: Queue, own: psycopg.Connection[Any]):
    with pytest.raises(psycopg.errors.DivisionByZero):
        own.execute("SELECT 1/0")
    for call in (lambda: queue.enqueue(Note(), connection=own), lambda: queue.enqueue_many([Note()] * 301, connection=own)):
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            call()
    own.rollback()
    assert queue.depth() == 0


def test_a_closed_connection_gives_the_drivers_error(queue: Queue, own: psycopg.Connection[Any]):
    own.close()
    with pytest.raises(psycopg.OperationalError, match="closed"):
        queue.enqueue(Note(), connection=own)


@pytest.mark.parametrize("wrong", ["postgresql://localhost", 5, object()])
def test_what_is_no_connection_is_refused(wrong: Any):
    with pytest.raises(ConfigurationError, match=r"connection takes a psycopg\.Connection, not builtins\."):
        Queue("postgresql://127.0.0.1:1/nowhere").enqueue(Note(), connection=wrong)


async def test_the_wrong_kind_of_connection_is_refused_with_the_right_client(
    queue: Queue, async_queue: AsyncQueue, own: psycopg.Connection[Any], migrated_database: str
):
    with pytest.raises(ConfigurationError, match="the connection is a blocking one: use Queue"):
        await async_queue.enqueue(Note(), connection=own)
    with pytest.raises(ConfigurationError, match="the connection is a blocking one"):
        await async_queue.enqueue_many([Note()], connection=own)
    async with await psycopg.AsyncConnection.connect(migrated_database) as connection:
        with pytest.raises(ConfigurationError, match="the connection is an async one: use AsyncQueue"):
            queue.enqueue(Note(), connection=connection)
    with pytest.raises(ConfigurationError, match=r"takes a psycopg\.AsyncConnection, not builtins\.object"):
        await async_queue.enqueue(Note(), connection=object())


async def test_an_async_transaction_is_joined_too(async_queue: AsyncQueue, migrated_database: str):
    async with await psycopg.AsyncConnection.connect(migrated_database) as connection:
        handle = await async_queue.enqueue(Note(), connection=connection)
        many = await async_queue.enqueue_many([Note()] * 301, connection=connection)
        named = await async_queue.enqueue_by_name("note", connection=connection)
        assert await handle.status() is None
        await connection.rollback()
        assert await async_queue.depth() == 0
        handle = await async_queue.enqueue(Note(), connection=connection)
        await connection.commit()
        assert await handle.status() == "ready"
        assert [await one.status() for one in (many[0], named)] == [None, None]


async def test_an_async_autocommit_connection_commits_each_call(async_queue: AsyncQueue, migrated_database: str):
    async with await psycopg.AsyncConnection.connect(migrated_database, autocommit=True) as connection:
        await async_queue.enqueue(Note(), connection=connection, idempotency_key="k")
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await async_queue.enqueue(Note(), connection=connection)
                raise ZeroDivisionError
    assert await async_queue.depth() == 1


def test_a_connection_with_rows_and_cursors_of_its_own_is_fine(queue: Queue, migrated_database: str):
    with psycopg.connect(migrated_database, row_factory=dict_row, cursor_factory=ClientCursor) as connection:
        first = queue.enqueue(Sync(), connection=connection)
        assert queue.enqueue(Sync(), connection=connection).id == first.id
        assert len(queue.enqueue_many([Note()] * 301, connection=connection)) == 301
        connection.commit()
        connection.cursor_factory = psycopg.RawCursor
        queue.enqueue(Note(), connection=connection)
    assert queue.depth() == 303


def test_a_duplicate_key_leaves_the_transaction_usable(queue: Queue, own: psycopg.Connection[Any]):
    holder = queue.enqueue(Sync(user_id=1))
    own.execute("INSERT INTO orders VALUES (1)")
    duplicate = queue.enqueue(Sync(user_id=1), connection=own)
    bulk = queue.enqueue_many([Sync(user_id=1), Sync(user_id=2)], connection=own)
    assert (duplicate.created, duplicate.id) == (False, holder.id)
    assert [handle.created for handle in bulk] == [False, True]
    own.execute("INSERT INTO orders VALUES (2)")
    own.commit()
    assert own.execute("SELECT count(*) FROM orders").fetchone() == (2,)
    assert queue.depth() == 2


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("options", [{}, {"idempotency_key": "k"}])
def test_a_second_session_waits_for_a_holder_that_has_not_ended(
    queue: Queue,
    own: psycopg.Connection[Any],
    connection: psycopg.Connection[Any],
    settings: Settings,
    migrated_database: str,
    commits: bool,
    options: Any,
):
    first = queue.enqueue(Sync(user_id=1), connection=own, **options)
    outcome: list[Any] = []
    with Queue(migrated_database, settings=settings, pool_size=1) as other:
        waiting = threading.Thread(target=lambda: outcome.append(other.enqueue(Sync(user_id=1), **options)))
        waiting.start()
        wait_until(lambda: _is_blocking(connection, own))
        assert not outcome
        own.commit() if commits else own.rollback()
        waiting.join(20)
    assert [handle.created for handle in outcome] == [not commits]
    assert (outcome[0].id == first.id) is commits
    assert queue.depth() == 1


@pytest.mark.parametrize("count", [1, 2])
def test_an_enqueue_that_waits_too_long_is_given_up_and_not_carried_out_later(
    queue: Queue, own: psycopg.Connection[Any], connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, count: int
):
    queue.enqueue(Sync(user_id=1), connection=own)
    monkeypatch.setattr("pgqueue.database._Deadline.deadline_seconds", 0.2)
    with pytest.raises(DatabaseUnavailable, match=r"no answer within 0\.2 s: it hangs, or another transaction holds a lock"):
        queue.enqueue_many([Sync(user_id=1)] * count) if count > 1 else queue.enqueue(Sync(user_id=1))
    wait_until(lambda: not _is_blocking(connection, own))
    own.rollback()
    assert queue.depth() == 0


def test_under_repeatable_read_a_conflict_is_the_callers_to_retry(queue: Queue, own: psycopg.Connection[Any]):
    own.isolation_level = IsolationLevel.REPEATABLE_READ
    own.execute("SELECT count(*) FROM orders").fetchone()
    holder = queue.enqueue(Sync(user_id=1))
    with pytest.raises(psycopg.errors.SerializationFailure):
        queue.enqueue(Sync(user_id=1), connection=own)
    own.rollback()
    assert queue.enqueue(Sync(user_id=1), connection=own).id == holder.id
    own.commit()


def test_the_own_pool_is_not_misled_by_the_databases_default_isolation(
    migrated_database: str, settings: Settings, connection: psycopg.Connection[Any]
):
    connection.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$"
    )
    with Queue(migrated_database, settings=settings) as queue:
        first = queue.enqueue(Sync(user_id=1), idempotency_key="k")
        assert queue.enqueue(Sync(user_id=1), idempotency_key="k").id == first.id
        assert [handle.created for handle in queue.enqueue_many([Sync(user_id=1), Sync(user_id=2)])] == [False, True]


def test_without_the_schema_the_error_names_the_way_out(empty_database: str, settings: Settings):
    with Queue(empty_database, settings=settings) as queue, psycopg.connect(empty_database) as own:
        for call in (
            lambda: queue.enqueue(Note()),
            lambda: queue.enqueue(Note(), connection=own),
            lambda: queue.enqueue_many([Note()] * 301),
            queue.depth,
            queue.list,
        ):
            with pytest.raises(SchemaError, match="run `pgqueue migrate`"):
                call()
            own.rollback()


def test_a_bound_client_joins_its_connection_and_shares_the_pool(queue: Queue, own: psycopg.Connection[Any]):
    bound = queue.bound(own)
    handle = bound.enqueue(Note())
    assert queue.depth() == 0
    own.commit()
    assert handle.status() == "ready"
    assert bound._pool is queue._pool


def _is_blocking(observer: psycopg.Connection[Any], holder: psycopg.Connection[Any]) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    return observer.execute(query, (holder.info.backend_pid,)).fetchone() is not None
