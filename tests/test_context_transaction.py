"""`context.transaction()`: a task's own writes and its completion, both or neither."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import LeaseLost, PgQueueError, Queue, Retry, Runner, Status, Task, task
from tests.conftest import eventually
from tests.programs import work

Drain = Callable[..., Awaitable[Runner]]
Row = psycopg.Connection[Any]
INSERT = "INSERT INTO effect (task_id) VALUES (%s)"


@pytest.fixture(autouse=True)
def effect_table(connection: Row) -> None:
    """What the tasks here write: their effects."""
    connection.execute("CREATE TABLE effect (task_id uuid NOT NULL)")


def effects(connection: Row) -> int:
    row = connection.execute("SELECT count(*) FROM effect").fetchone()
    assert row is not None
    return int(row[0])


async def test_the_write_and_the_result_commit_together_and_what_run_returns_changes_nothing(
    queue: Queue, drain: Drain, connection: Row
) -> None:
    @task
    class AsyncPay(Task[str]):
        async def run(self) -> str:
            async with self.context.transaction() as own:
                await own.execute(INSERT, (self.context.task_id,))
                self.context.complete("from the block")
            return "from run"

    @task
    class SyncPay(Task[str]):
        def run(self) -> str:
            with self.context.transaction() as own:
                own.execute(INSERT, (self.context.task_id,))
                self.context.complete("from the block")
            return "from run"

    handles = [queue.enqueue(AsyncPay()), queue.enqueue(SyncPay())]
    runner = await drain()
    assert [handle.result(timeout=1) for handle in handles] == ["from the block"] * 2
    assert effects(connection) == 2
    assert runner.stats().lost_leases == 0


async def test_without_complete_the_result_is_null(queue: Queue, drain: Drain) -> None:
    @task
    class Quiet(Task):
        async def run(self) -> Any:
            async with self.context.transaction():
                pass
            return "dropped"

    handle = queue.enqueue(Quiet())
    await drain()
    assert handle.result(timeout=1) is None


async def test_a_connection_of_ones_own_is_used_and_committed(
    queue: Queue, drain: Drain, connection: Row, migrated_database: str
) -> None:
    @task
    class AsyncPay(Task):
        async def run(self) -> None:
            async with await psycopg.AsyncConnection.connect(migrated_database) as own:
                async with self.context.transaction(connection=own) as same:
                    assert same is own
                    await own.execute(INSERT, (self.context.task_id,))
                assert own.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    @task
    class SyncPay(Task):
        def run(self) -> None:
            with psycopg.connect(migrated_database, autocommit=True) as own, self.context.transaction(connection=own):
                own.execute(INSERT, (self.context.task_id,))

    handles = [queue.enqueue(AsyncPay()), queue.enqueue(SyncPay())]
    await drain()
    assert [handle.status() for handle in handles] == [Status.SUCCEEDED] * 2
    assert effects(connection) == 2


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_error_in_the_block_rolls_back_both_and_the_attempt_fails(
    kind: str, queue: Queue, drain: Drain, connection: Row
) -> None:
    if kind == "async":

        @task(name="pay")
        class AsyncPay(Task):
            async def run(self) -> None:
                async with self.context.transaction() as own:
                    await own.execute(INSERT, (self.context.task_id,))
                    raise ValueError("in the block")

    else:

        @task(name="pay")
        class SyncPay(Task):
            def run(self) -> None:
                with self.context.transaction() as own:
                    own.execute(INSERT, (self.context.task_id,))
                    raise ValueError("in the block")

    handle = queue.enqueue_by_name("pay")
    await drain()
    assert effects(connection) == 0
    record = queue.get(handle)
    assert record is not None
    assert (record.status, record.reason) == (Status.DEAD, "ValueError: in the block")


async def test_in_a_process_it_works_the_same(queue: Queue, drain: Drain, connection: Row) -> None:
    work.register()
    fine, failing = queue.enqueue(work.Transact()), queue.enqueue(work.Transact(fails=True))
    await drain(concurrency=1)
    assert fine.result(timeout=1) == "from the block"
    assert failing.status() is Status.DEAD
    assert effects(connection) == 1


async def test_what_run_raises_afterwards_is_logged_and_changes_nothing(
    queue: Queue, drain: Drain, connection: Row, caplog: pytest.LogCaptureFixture
) -> None:
    @task(retry=Retry(max_attempts=5))
    class Late(Task):
        async def run(self) -> None:
            async with self.context.transaction() as own:
                await own.execute(INSERT, (self.context.task_id,))
            raise ValueError("too late")

    handle = queue.enqueue(Late())
    await drain()
    assert handle.status() is Status.SUCCEEDED
    assert queue.attempts(handle) == []
    assert effects(connection) == 1
    assert "raised after its transaction had completed it" in caplog.text


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_lease_lost_inside_raises_and_rolls_back(kind: str, queue: Queue, drain: Drain, connection: Row) -> None:
    seen: list[str] = []

    def take_away(task_id: Any) -> None:
        connection.execute("UPDATE pgqueue.task SET claim_id = gen_random_uuid() WHERE id = %s", (task_id,))

    if kind == "async":

        @task(name="pay")
        class AsyncPay(Task):
            async def run(self) -> None:
                try:
                    async with self.context.transaction() as own:
                        await own.execute(INSERT, (self.context.task_id,))
                        take_away(self.context.task_id)
                except LeaseLost as error:
                    seen.append(str(error))
                    connection.execute("DELETE FROM pgqueue.task")
                    raise

    else:

        @task(name="pay")
        class SyncPay(Task):
            def run(self) -> None:
                try:
                    with self.context.transaction() as own:
                        own.execute(INSERT, (self.context.task_id,))
                        take_away(self.context.task_id)
                except LeaseLost as error:
                    seen.append(str(error))
                    connection.execute("DELETE FROM pgqueue.task")
                    raise

    queue.enqueue_by_name("pay")
    runner = await drain()
    assert effects(connection) == 0
    assert len(seen) == 1
    assert "no longer owns its task" in seen[0]
    assert runner.stats().lost_leases == 1


async def test_what_a_task_enqueues_inside_exists_if_and_only_if_it_completes(queue: Queue, drain: Drain) -> None:
    @task
    class Child(Task):
        name: str

        async def run(self) -> None: ...

    @task
    class AsyncParent(Task):
        fails: bool

        async def run(self) -> None:
            async with self.context.transaction():
                await self.context.queue.enqueue(Child(name=f"async {self.fails}"))
                await Child(name=f"async shortcut {self.fails}").enqueue()
                if self.fails:
                    raise ValueError

    @task
    class SyncParent(Task):
        fails: bool

        def run(self) -> None:
            with self.context.transaction():
                self.context.queue.enqueue(Child(name=f"sync {self.fails}"))
                Child(name=f"sync shortcut {self.fails}").enqueue()
                if self.fails:
                    raise ValueError

    for fails in (False, True):
        queue.enqueue(AsyncParent(fails=fails))
        queue.enqueue(SyncParent(fails=fails))
    await drain()
    names = {record.payload["name"] for record in queue.list(type="child")}
    assert names == {"async False", "async shortcut False", "sync False", "sync shortcut False"}


async def test_an_aborted_transaction_of_the_users_fails_the_attempt_in_the_ordinary_way(
    queue: Queue, drain: Drain, connection: Row
) -> None:
    @task
    class Clumsy(Task):
        async def run(self) -> None:
            async with self.context.transaction() as own:
                await own.execute(INSERT, (self.context.task_id,))
                try:
                    await own.execute("SELECT 1 / 0")
                except psycopg.errors.DivisionByZero:
                    pass  # and on it goes, in a transaction that can only be rolled back

    handle = queue.enqueue(Clumsy())
    await drain()
    assert handle.status() is Status.DEAD
    assert queue.attempts(handle)[0].error_type == "psycopg.errors.InFailedSqlTransaction"
    assert effects(connection) == 0


async def test_an_attempt_completes_once_and_only_on_an_idle_connection(
    queue: Queue, drain: Drain, migrated_database: str
) -> None:
    refusals: list[str] = []

    async def refused(block: Any) -> None:
        with pytest.raises(PgQueueError) as caught:
            async with block:
                pass
        refusals.append(str(caught.value).partition(":")[0])

    @task
    class Greedy(Task):
        async def run(self) -> None:
            context = self.context
            with pytest.raises(PgQueueError, match="belongs inside"):
                context.complete(1)
            async with await psycopg.AsyncConnection.connect(migrated_database) as busy:
                await busy.execute("SELECT 1")
                await refused(context.transaction(connection=busy))
            await refused(context.transaction(connection=object()))
            with pytest.raises(PgQueueError, match="in an async task it is `async with"), context.transaction():
                pass
            async with context.transaction():
                await refused(context.transaction())
            await refused(context.transaction())

    handle = queue.enqueue(Greedy())
    await drain()
    assert handle.status() is Status.SUCCEEDED, queue.attempts(handle)
    assert refusals == [
        "context.transaction(connection=...) takes a connection in no transaction",
        "connection takes a psycopg.AsyncConnection, not object",
        "context.transaction() is already open",
        "context.transaction() has completed this task already",
    ]


async def test_a_block_that_was_rolled_back_may_be_repeated_and_leaves_no_result_behind(
    queue: Queue, drain: Drain, connection: Row
) -> None:
    @task
    class Persistent(Task[str | None]):
        async def run(self) -> None:
            try:
                async with self.context.transaction() as own:
                    await own.execute(INSERT, (self.context.task_id,))
                    self.context.complete("of the first block")
                    raise ConnectionError
            except ConnectionError:
                pass
            async with self.context.transaction() as own:
                await own.execute(INSERT, (self.context.task_id,))

    handle = queue.enqueue(Persistent())
    await drain()
    assert handle.result(timeout=1) is None
    assert effects(connection) == 1


async def test_a_result_that_cannot_be_stored_rolls_back(queue: Queue, drain: Drain, connection: Row) -> None:
    @task
    class Wrong(Task[int]):
        async def run(self) -> Any:
            async with self.context.transaction() as own:
                await own.execute(INSERT, (self.context.task_id,))
                self.context.complete("no number")

    handle = queue.enqueue(Wrong())
    await drain()
    assert handle.status() is Status.DEAD
    assert effects(connection) == 0


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_as_many_transactions_are_open_at_a_time_as_there_are_slots(kind: str, queue: Queue, drain: Drain) -> None:
    count = 12
    everybody, everyone = asyncio.Barrier(count), threading.Barrier(count)

    if kind == "async":

        @task(name="meet", timeout=timedelta(seconds=15))
        class AsyncMeet(Task):
            async def run(self) -> None:
                async with self.context.transaction():
                    await everybody.wait()

    else:

        @task(name="meet", timeout=timedelta(seconds=15))
        class SyncMeet(Task):
            def run(self) -> None:
                with self.context.transaction():
                    everyone.wait(15)

    handles = [queue.enqueue_by_name("meet") for _ in range(count)]
    await drain(concurrency=count)
    await eventually(lambda: {handle.status() for handle in handles} == {Status.SUCCEEDED})
