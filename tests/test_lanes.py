"""Lock first, lease later: what a lane's open transaction holds, and how it lets go of it."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Retry, Runner, Settings, Status, Task, task
from pgqueue.assignment import lanes_that_pay
from pgqueue.database import connection_parameters
from pgqueue.lane import Lane
from pgqueue.link import Link
from pgqueue.paces import PROBATION_MIN, RUNS_MIN, Paces
from pgqueue.statements import statements
from pgqueue.watermark import QueueWatermarks
from pgqueue.wire import Exchange
from tests.conftest import eventually
from tests.programs import effects

Row = psycopg.Connection[Any]
SQL = statements("pgqueue")
PATIENCE = timedelta(milliseconds=50)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy is no outage."""
    monkeypatch.setattr("pgqueue.lane.REGAIN_SECONDS", 20.0)


def locking(dsn: str, settings: Settings, *, patience: timedelta = PATIENCE, **options: Any) -> Runner:
    return Runner(AsyncQueue(dsn, settings=settings), patience=patience, **options)


def trusted(runner: Runner) -> None:
    """Let the runner believe that it has measured its types, and that all of them are quick."""
    paces = runner._running()._paces
    for name in paces._types:
        for _ in range(PROBATION_MIN * 2):
            paces.observe(name, 0.0)
    assert paces.any_quick


async def test_quick_tasks_are_never_written_down_as_running_and_each_succeeds_once(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    runs: Counter[int] = Counter()

    @task
    class Quick(Task[int]):
        number: int

        async def run(self) -> int:
            runs[self.number] += 1
            return self.number

    connection.execute("CREATE TABLE leased (id uuid)")
    connection.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO leased VALUES (NEW.id); RETURN NEW; END $$"
    )
    connection.execute(
        "CREATE TRIGGER note AFTER UPDATE ON pgqueue.task FOR EACH ROW WHEN (NEW.status = 'running') EXECUTE FUNCTION note()"
    )
    async with locking(migrated_database, settings, patience=timedelta(seconds=2)) as runner:
        trusted(runner)
        handles = queue.enqueue_many([Quick(number=number) for number in range(2_000)])
        await eventually(lambda: connection.execute("SELECT count(*) FROM pgqueue.history").fetchone() == (2_000,))
    assert runs == Counter(range(2_000))
    assert [handle.result(timeout=1) for handle in handles[::100]] == list(range(0, 2_000, 100))
    assert connection.execute("SELECT DISTINCT attempt, status::text FROM pgqueue.history").fetchall() == [(1, "succeeded")]
    assert connection.execute("SELECT count(*) FROM pgqueue.history WHERE claim_id IS NULL OR started_at IS NULL").fetchone() == (
        0,
    )
    leased = connection.execute("SELECT count(*) FROM leased").fetchone()
    assert leased is not None
    assert leased[0] < 500


async def test_a_task_that_outlives_the_patience_is_leased_and_its_neighbours_do_not_wait_for_it(
    queue: Queue, migrated_database: str, settings: Settings
) -> None:
    go_on = asyncio.Event()

    @task
    class Moody(Task):
        waits: bool = False

        async def run(self) -> None:
            if self.waits:
                await go_on.wait()

    async with locking(migrated_database, settings) as runner:
        trusted(runner)
        slow, *quick = queue.enqueue_many([Moody(waits=True), *[Moody() for _ in range(5)]])
        await eventually(lambda: {handle.status() for handle in quick} == {Status.SUCCEEDED})
        await eventually(lambda: slow.status() is Status.RUNNING)
        go_on.set()
        await eventually(lambda: slow.status() is Status.SUCCEEDED)
    assert runner.stats().lost_leases == 0


async def test_a_locked_task_that_fails_is_retried_and_then_dead(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    @task(retry=Retry(max_attempts=3, initial=timedelta(0), jitter=0))
    class Failing(Task):
        async def run(self) -> None:
            raise ValueError(f"attempt {self.context.attempt}")

    async with locking(migrated_database, settings) as runner:
        trusted(runner)
        handles = queue.enqueue_many([Failing() for _ in range(20)])
        await eventually(lambda: {handle.status() for handle in handles} == {Status.DEAD})
    assert connection.execute("SELECT attempt, count(*) FROM pgqueue.attempt GROUP BY 1 ORDER BY 1").fetchall() == [
        (1, 20), (2, 20), (3, 20),
    ]  # fmt: skip


async def test_a_locked_task_that_opens_a_transaction_is_leased_first_and_its_effect_is_exactly_one(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    connection.execute(effects.TABLE)

    @task
    class Effective(Task):
        async def run(self) -> None:
            async with self.context.transaction() as own:
                await own.execute(effects.INSERT, (self.context.task_id, 1))

    @task
    class InThread(Task):
        def run(self) -> None:
            with self.context.transaction() as own:
                own.execute(effects.INSERT, (self.context.task_id, 2))

    async with locking(migrated_database, settings) as runner:
        trusted(runner)
        queue.enqueue_many([Effective() if number % 2 else InThread() for number in range(40)])
        await eventually(lambda: connection.execute("SELECT count(*) FROM pgqueue.history").fetchone() == (40,), timeout=30)
        assert set(runner._running()._paces.slow) == {"effective", "in-thread"}
    assert connection.execute("SELECT count(*), count(DISTINCT task_id) FROM effect").fetchone() == (40, 40)
    assert runner.stats().lost_leases == 0


async def test_of_a_locked_batch_with_one_refused_row_only_the_culprit_is_dead(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    @task
    class Numbered(Task):
        number: int

        async def run(self) -> None: ...

    connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.payload ->> 'number' = '7' THEN RAISE EXCEPTION 'seven is refused' USING ERRCODE = '23514'; END IF; RETURN NEW; END $$"
    )
    connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON pgqueue.history FOR EACH ROW EXECUTE FUNCTION refuse()")
    async with locking(migrated_database, settings) as runner:
        trusted(runner)
        handles = queue.enqueue_many([Numbered(number=number) for number in range(50)])
        await eventually(lambda: all(handle.status() in (Status.SUCCEEDED, Status.DEAD) for handle in handles))
    assert [number for number, handle in enumerate(handles) if handle.status() is Status.DEAD] == [7]


async def test_a_type_that_asks_for_leases_gets_them(queue: Queue, migrated_database: str, settings: Settings) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @task(claim="lease")
    class Dear(Task):
        async def run(self) -> None:
            started.set()
            await go_on.wait()

    @task
    class Cheap(Task):
        async def run(self) -> None: ...

    async with locking(migrated_database, settings) as runner:
        trusted(runner)
        queue.enqueue(Cheap())
        handle = queue.enqueue(Dear())
        await asyncio.wait_for(started.wait(), 10)
        assert handle.status() is Status.RUNNING
        go_on.set()
        await eventually(lambda: handle.status() is Status.SUCCEEDED)


async def test_terminating_lanes_at_random_loses_nothing_and_settles_nothing_twice(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    count = 5_000

    @task
    class Simply(Task):
        async def run(self) -> None:
            await asyncio.sleep(dice.choice([0, 0, 0.001]))

    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'pgqueue lane%%' AND random() < %s"
    )
    killed = 0
    async with locking(migrated_database, settings) as runner:
        trusted(runner)
        queue.enqueue_many([Simply() for _ in range(count)])
        for _ in range(50):
            await asyncio.sleep(dice.uniform(0.0, 0.04))
            row = connection.execute(kill, (dice.choice([0.5, 1.0]),)).fetchone()
            killed += row[0] if row else 0
        await eventually(lambda: connection.execute("SELECT count(*) FROM pgqueue.task").fetchone() == (0,), timeout=40)
    assert killed > 10
    assert connection.execute("SELECT count(*), count(DISTINCT id) FROM pgqueue.history").fetchone() == (count, count)
    assert connection.execute("SELECT count(*) FROM pgqueue.dead_task").fetchone() == (0,)


async def test_what_a_lost_lane_had_locked_goes_on_under_a_lease_and_runs_once(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever else looks could take a row in the moment in which the server lets go of it.
    monkeypatch.setattr("pgqueue.parts.LANES", 1)
    monkeypatch.setattr("pgqueue.scan.HeadScan.run", lambda self, stop: stop.wait())
    go_on, runs = asyncio.Event(), Counter[int]()

    @task
    class Waiting(Task):
        number: int

        async def run(self) -> None:
            runs[self.number] += 1
            await go_on.wait()

    async with Runner(AsyncQueue(migrated_database, settings=settings), patience=timedelta(seconds=20)) as runner:
        trusted(runner)
        handles = queue.enqueue_many([Waiting(number=number) for number in range(5)])
        await eventually(lambda: len(runs) == 5)
        assert {handle.status() for handle in handles} == {Status.READY}
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'pgqueue lane%'"
        )
        await eventually(lambda: {handle.status() for handle in handles} == {Status.RUNNING})
        go_on.set()
        await eventually(lambda: {handle.status() for handle in handles} == {Status.SUCCEEDED})
    assert runs == Counter(range(5))
    assert runner.stats().lost_leases == 0


async def test_a_lane_whose_commit_was_carried_out_and_not_answered_has_written_everything_down(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, lost = Exchange.run, asyncio.Event()

    async def run(self: Exchange) -> None:
        await genuine(self)
        if not lost.is_set() and any(reply.text == "COMMIT" for reply in self._replies):
            lost.set()
            await self.connection.close()
            for reply in self._replies:
                reply.result = None
            raise psycopg.OperationalError("the reply was lost")

    runs: Counter[int] = Counter()

    @task
    class Counted(Task):
        number: int

        async def run(self) -> None:
            runs[self.number] += 1

    monkeypatch.setattr(Exchange, "run", run)
    async with locking(migrated_database, settings) as runner:
        trusted(runner)
        queue.enqueue_many([Counted(number=number) for number in range(200)])
        await eventually(lambda: connection.execute("SELECT count(*) FROM pgqueue.history").fetchone() == (200,))
    assert lost.is_set()
    assert runs == Counter(range(200))
    assert (runner.stats().lost_leases, runner.stats().processed) == (0, 200)


async def test_what_an_unanswered_commit_has_leased_is_owned_by_the_attempts_that_go_on(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.execute(effects.TABLE)
    genuine, lost = Exchange.run, asyncio.Event()

    async def run(self: Exchange) -> None:
        await genuine(self)
        texts = [reply.text for reply in self._replies]
        if not lost.is_set() and SQL.lease.text in texts:
            lost.set()
            await self.connection.close()
            for reply in self._replies:
                reply.result = None
            raise psycopg.OperationalError("the reply was lost")

    @task(retry=Retry(max_attempts=1))
    class Effective(Task):
        async def run(self) -> None:
            async with self.context.transaction() as own:
                await own.execute(effects.INSERT, (self.context.task_id, 1))

    @task(claim="lease", retry=Retry(max_attempts=1))
    class Dear(Task):
        async def run(self) -> None: ...

    monkeypatch.setattr(Exchange, "run", run)
    async with locking(migrated_database, settings) as runner:
        trusted(runner)
        handles = queue.enqueue_many([Effective() if number % 2 else Dear() for number in range(20)])
        await eventually(lambda: {handle.status() for handle in handles} == {Status.SUCCEEDED})
    assert lost.is_set()
    assert connection.execute("SELECT count(*), count(DISTINCT task_id) FROM effect").fetchone() == (10, 10)
    assert connection.execute("SELECT DISTINCT attempt FROM pgqueue.history").fetchall() == [(1,)]
    assert connection.execute("SELECT count(*) FROM pgqueue.attempt").fetchone() == (0,)
    assert runner.stats().lost_leases == 0


async def test_what_others_have_owned_since_is_not_regained_whatever_the_clock_says(
    queue: Queue, migrated_database: str, connection: Row
) -> None:
    @task
    class Waiting(Task):
        async def run(self) -> None: ...

    queue.enqueue_many([Waiting(), Waiting()])
    link = Link(connection_parameters(migrated_database), name="lane", deadline_seconds=5.0)
    lane = Lane(SQL, link, runner_id=uuid.uuid4(), types=["waiting"], watermarks=QueueWatermarks(), patience_seconds=20.0)
    opened = await lane.open("default", 10, [])
    assert opened.batch is not None
    opened.batch.close()
    await link.drop()
    one, other = opened.batch.tasks
    # Leased, failed and given back meanwhile, on a server whose clock is behind, as after a failover.
    connection.execute(
        "UPDATE pgqueue.task SET claim_id = gen_random_uuid(), attempt = 1, updated_at = '2020-01-01' WHERE id = %s", (one.id,)
    )
    assert await lane.regain(opened, opened.batch.tasks) == ({other.id}, set())
    await link.drop()


async def test_what_the_server_has_not_let_go_of_yet_is_regained_once_it_has(queue: Queue, migrated_database: str) -> None:
    @task
    class Waiting(Task):
        async def run(self) -> None: ...

    queue.enqueue_many([Waiting(), Waiting()])
    link = Link(connection_parameters(migrated_database), name="lane", deadline_seconds=5.0)
    lane = Lane(SQL, link, runner_id=uuid.uuid4(), types=["waiting"], watermarks=QueueWatermarks(), patience_seconds=20.0)
    opened = await lane.open("default", 10, [])
    assert opened.batch is not None
    opened.batch.close()
    await link.drop()
    one, other = opened.batch.tasks
    genuine, looks = link.rows, 0

    with psycopg.connect(migrated_database) as ending:
        ending.execute("SELECT FROM pgqueue.task WHERE id = %s FOR UPDATE", (one.id,))

        async def rows(call: Any) -> Any:
            nonlocal looks
            found = await genuine(call)
            looks += 1
            if looks == 2:
                ending.rollback()
            return found

        link.rows = rows  # type: ignore[method-assign]
        assert await lane.regain(opened, opened.batch.tasks) == ({one.id, other.id}, set())
    assert looks >= 3
    await link.drop()


async def test_a_task_that_was_asked_to_cancel_before_its_runner_was_lost_is_cancelled(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    @task
    class Long(Task):
        async def run(self) -> None:
            await asyncio.sleep(30)

    handle = queue.enqueue(Long())
    connection.execute("UPDATE pgqueue.task SET cancel_requested_at = clock_timestamp(), cancel_reason = 'enough'")
    async with Runner(AsyncQueue(migrated_database, settings=settings), patience=timedelta(seconds=20)) as runner:
        trusted(runner)
        await eventually(lambda: handle.status() is Status.CANCELLED)
    record = queue.get(handle)
    assert record is not None
    assert record.reason == "enough"


async def test_stopping_leaves_no_lane_open_and_gives_back_what_was_not_started(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    @task
    class Short(Task):
        async def run(self) -> None:
            await asyncio.sleep(0.01)

    async with locking(migrated_database, settings) as runner:
        trusted(runner)
        queue.enqueue_many([Short() for _ in range(1_000)])
        await eventually(lambda: connection.execute("SELECT count(*) FROM pgqueue.history").fetchone() != (0,))
    rows = connection.execute("SELECT status::text, runner_id, attempt, count(*) FROM pgqueue.task GROUP BY 1, 2, 3").fetchall()
    assert [row[:3] for row in rows] == [("ready", None, 0)]
    row = connection.execute("SELECT count(*) FROM pgqueue.history").fetchone()
    assert row is not None
    assert row[0] + rows[0][3] == 1_000


# ── who is quick ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_type_starts_out_leased_and_is_trusted_once_measured() -> None:
    paces = Paces(["a", "b"], patience_seconds=0.05, leased=["b"])
    assert paces.slow == ["a", "b"]
    for _ in range(RUNS_MIN + 1):
        paces.observe("a", 0.001)
        paces.observe("b", 0.001)
    assert (paces.slow, paces.any_quick) == (["b"], True)


def test_one_slow_run_sends_a_type_back_for_longer_each_time() -> None:
    paces = Paces(["a"], patience_seconds=0.05)

    def runs_until_quick() -> int:
        count = 0
        while not paces.any_quick:
            paces.observe("a", 0.0)
            count += 1
        return count

    first = runs_until_quick()
    paces.observe("a", 0.06)
    second = runs_until_quick()
    paces.observe("a", 0.06)
    third = runs_until_quick()
    assert first < second < third


def test_without_patience_nothing_is_quick() -> None:
    paces = Paces(["a"], patience_seconds=0)
    for _ in range(1_000):
        paces.observe("a", 0.0)
    assert not paces.any_quick


def test_the_more_runners_there_are_the_fewer_lanes_each_keeps_open() -> None:
    assert [lanes_that_pay(peers) for peers in (0, 1, 4, 5, 16, 17)] == [2, 2, 2, 1, 1, 0]
