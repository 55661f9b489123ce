"""What happens when processes, connections and servers die: nothing is lost, nothing is settled twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue import AsyncQueue, Queue, Retry, Runner, Settings, Status, Task, TaskHandle, registry, task
from pgqueue.completer import Completer, Settlement, claims_object
from pgqueue.context import Claimed
from pgqueue.database import Parameters, Rows, connection_parameters
from pgqueue.embedded import open_embedded
from pgqueue.lane import Lane
from pgqueue.link import Link
from pgqueue.migrations import migrate
from pgqueue.outcomes import Outcome, Verdict
from pgqueue.statements import Call, Statement, statements
from tests.conftest import eventually, wait_until
from tests.programs import effects
from tests.programs.process import runner_process

Drain = Callable[..., Awaitable[Runner]]
Row = psycopg.Connection[Any]
SQL = statements("pgqueue")
SHORT_LEASE = ("--lease", "1500ms", "--heartbeat", "500ms")


def short_lease(**more: Any) -> Settings:
    return Settings(
        **{"lease": "1500ms", "heartbeat": "300ms", "poll_interval": "50ms", "statement_deadline": "1s", "app": "test"} | more
    )


@pytest.fixture(autouse=True)
def known(own_tasks: None) -> None:
    """The tasks of the runner processes, known here too."""
    for value in vars(effects).values():
        task_type = getattr(value, "__task_type__", None)
        if task_type is not None:
            registry.add(task_type)


@pytest.fixture
def effect_table(connection: Row) -> Row:
    connection.execute(effects.TABLE)
    return connection


def number(connection: Row, query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def assert_each_done_once(connection: Row, count: int) -> None:
    """Every task in history once, with one effect, and nothing left over."""
    assert number(connection, "SELECT count(*) FROM pgqueue.task") == 0
    assert number(connection, "SELECT count(*) FROM pgqueue.dead_task") == 0
    history = connection.execute("SELECT count(*), count(DISTINCT id) FROM pgqueue.history WHERE status = 'succeeded'").fetchone()
    effect = connection.execute("SELECT count(*), count(DISTINCT task_id) FROM effect").fetchone()
    assert (history, effect) == ((count, count), (count, count))


# ── processes that die ──────────────────────────────────────────────────────────────────────────────────────────────


def test_kill_9_of_a_runner_with_100_tasks_in_flight_loses_nothing_and_settles_nothing_twice(
    queue: Queue, migrated_database: str, effect_table: Row, tmp_path: Path
) -> None:
    queue.enqueue_many([effects.Effect(seconds=0.6) for _ in range(100)])
    with runner_process(migrated_database, tmp_path / "victim.log", "--concurrency", "100", *SHORT_LEASE) as victim:
        wait_until(lambda: number(effect_table, "SELECT count(*) FROM pgqueue.task WHERE status = 'running'") == 100)
        victim.signal_all(signal.SIGKILL)
        victim.wait()
    with runner_process(migrated_database, tmp_path / "heir.log", "--concurrency", "100", *SHORT_LEASE) as heir:
        wait_until(lambda: number(effect_table, "SELECT count(*) FROM pgqueue.history") == 100, timeout=20)
        assert heir.stop() == 0
    assert_each_done_once(effect_table, 100)
    # A crash spends no attempt.
    assert effect_table.execute("SELECT DISTINCT attempt FROM pgqueue.history").fetchall() == [(1,)]
    assert number(effect_table, "SELECT count(*) FROM pgqueue.attempt") == 0
    assert "rescued" in heir.output


@pytest.mark.slow
def test_a_runner_stopped_beyond_its_lease_and_continued_completes_nothing_a_second_time(
    queue: Queue, migrated_database: str, effect_table: Row, tmp_path: Path
) -> None:
    count = 20
    queue.enqueue_many([effects.Effect(seconds=1.0) for _ in range(count)])
    running = "SELECT count(*) FROM pgqueue.task WHERE status = 'running'"
    with (
        runner_process(migrated_database, tmp_path / "sleeper.log", "--concurrency", "20", *SHORT_LEASE) as sleeper,
        runner_process(
            migrated_database, tmp_path / "other.log", "--concurrency", "1", *SHORT_LEASE, "--queue", "none yet"
        ) as watcher,
    ):
        wait_until(lambda: number(effect_table, running) == count)
        sleeper.signal_all(signal.SIGSTOP)
        wait_until(lambda: number(effect_table, running) == 0)
        with runner_process(migrated_database, tmp_path / "heir.log", "--concurrency", "20", *SHORT_LEASE) as heir:
            wait_until(lambda: number(effect_table, running) == count)
            sleeper.signal_all(signal.SIGCONT)
            wait_until(lambda: number(effect_table, "SELECT count(*) FROM pgqueue.history") == count)
            assert_each_done_once(effect_table, count)
            # It lives on, registered again, and works.
            assert heir.stop() == 0
            queue.enqueue(effects.Effect())
            wait_until(lambda: number(effect_table, "SELECT count(*) FROM pgqueue.history") == count + 1)
        assert sleeper.stop() == 0
        assert watcher.stop() == 0
    assert sleeper.output.count("lease lost") == count


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An embedded server to kill: its DSN, and the file with its pid."""
    with open_embedded(tmp_path / "pg", settings={"fsync": "off", "max_connections": "200"}, linger_seconds=1.0) as server:
        migrate(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(effects.TABLE)
            data = connection.execute("SHOW data_directory").fetchone()
        assert data is not None
        yield server.dsn, Path(data[0]) / "postmaster.pid"


def test_kill_9_of_the_server_with_100_tasks_in_flight_loses_nothing_and_settles_nothing_twice(
    own_server: tuple[str, Path], tmp_path: Path
) -> None:
    dsn, pid_file = own_server
    with runner_process(dsn, tmp_path / "runner.log", "--concurrency", "100", "--lease", "5s", "--heartbeat", "500ms") as runner:
        with Queue(dsn) as queue:
            queue.enqueue_many([effects.Plain(number=index, seconds=1.0) for index in range(100)])
        with psycopg.connect(dsn, autocommit=True) as connection:
            wait_until(lambda: number(connection, "SELECT count(*) FROM pgqueue.task WHERE status = 'running'") == 100)
        victim = int(pid_file.read_text().split()[0])
        os.kill(victim, signal.SIGKILL)
        connection = wait_until(lambda: _connected(dsn), timeout=20)
        with connection:
            wait_until(lambda: number(connection, "SELECT count(*) FROM pgqueue.history") == 100, timeout=20)
            assert int(pid_file.read_text().split()[0]) != victim
            rows = connection.execute(
                "SELECT count(DISTINCT id), count(DISTINCT result), min(attempt), max(attempt), max(crashes) FROM pgqueue.history"
            ).fetchall()
            assert rows == [(100, 100, 1, 1, 0)]
            assert number(connection, "SELECT count(*) FROM pgqueue.task") == 0
            # The runner came back by itself.
            with Queue(dsn) as queue:
                assert queue.enqueue(effects.Plain(number=7)).result(timeout=10) == 7
        assert runner.stop() == 0
    assert "lease lost" not in runner.output


def _connected(dsn: str) -> Row | None:
    try:
        return psycopg.connect(dsn, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError:
        return None


# ── connections that die ────────────────────────────────────────────────────────────────────────────────────────────


async def test_terminating_connections_at_random_50_times_loses_nothing_and_doubles_nothing(
    queue: Queue, migrated_database: str, effect_table: Row
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    count = 5_000

    @task(retry=Retry(max_attempts=1_000, initial=timedelta(0), jitter=0))
    class Exactly(Task):
        async def run(self) -> None:
            async with self.context.transaction() as connection:
                await connection.execute(effects.INSERT, (self.context.task_id, 0))

    @task(retry=Retry(max_attempts=1_000, initial=timedelta(0), jitter=0))
    class Simply(Task):
        async def run(self) -> None: ...

    queue.enqueue_many([Exactly() if index % 5 == 0 else Simply() for index in range(count)])
    queue.close()
    kill = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgqueue%%') AS backend WHERE random() < %s"
    killed = 0
    async with Runner(AsyncQueue(migrated_database, settings=short_lease(lease="3s"))) as runner:
        for _ in range(50):
            await asyncio.sleep(dice.uniform(0.0, 0.06))
            row = effect_table.execute(kill, (dice.choice([0.3, 1.0]),)).fetchone()
            killed += row[0] if row else 0
        await eventually(lambda: number(effect_table, "SELECT count(*) FROM pgqueue.history") >= count, timeout=40)
        await eventually(lambda: number(effect_table, "SELECT count(*) FROM pgqueue.task") == 0, timeout=10)
        assert runner.stats().status == "running"
    assert killed > 50
    assert effect_table.execute("SELECT count(*), count(DISTINCT id) FROM pgqueue.history").fetchone() == (count, count)
    assert effect_table.execute("SELECT count(*), count(DISTINCT task_id) FROM effect").fetchone() == (count // 5, count // 5)
    assert number(effect_table, "SELECT count(*) FROM pgqueue.dead_task") == 0


async def test_a_connection_that_breaks_while_a_runner_starts_does_not_keep_it_from_starting(
    queue: Queue, migrated_database: str, monkeypatch: pytest.MonkeyPatch, settings: Settings, connection: Row
) -> None:
    genuine, broken = Link.rows, Counter[str]()

    async def rows(self: Link, call: Call) -> Rows:
        if call.statement.name in ("revision", "register_type") and not broken[call.statement.name]:
            broken[call.statement.name] += 1
            pid = (await self.connection()).info.backend_pid
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        return await genuine(self, call)

    monkeypatch.setattr(Link, "rows", rows)
    async with Runner(AsyncQueue(migrated_database, settings=settings)):
        handle = queue.enqueue(effects.Plain(number=5))
        await eventually(lambda: handle.status() is Status.SUCCEEDED)
    assert broken == {"revision": 1, "register_type": 1}


async def test_a_claim_whose_reply_was_lost_is_given_back_and_runs_once(
    queue: Queue, migrated_database: str, monkeypatch: pytest.MonkeyPatch, connection: Row
) -> None:
    genuine, lost = Lane._claim, threading.Event()

    async def claim(self: Lane, *arguments: Any) -> list[Claimed]:
        batch = await genuine(self, *arguments)
        if batch and not lost.is_set():
            lost.set()
            await self._link.drop()
            raise psycopg.OperationalError("the reply was lost")
        return batch

    monkeypatch.setattr(Lane, "_claim", claim)
    handle = queue.enqueue(effects.Plain(number=3))
    async with Runner(AsyncQueue(migrated_database, settings=short_lease())):
        await eventually(lambda: handle.status() is Status.SUCCEEDED)
    assert lost.is_set()
    assert connection.execute("SELECT attempt, crashes FROM pgqueue.history").fetchall() == [(1, 0)]


async def test_a_claim_whose_reply_waits_behind_a_blocked_loop_is_not_given_back(
    queue: Queue, migrated_database: str, monkeypatch: pytest.MonkeyPatch, connection: Row
) -> None:
    genuine, blocked = Lane._claim, threading.Event()

    async def claim(self: Lane, *arguments: Any) -> list[Claimed]:
        batch = await genuine(self, *arguments)
        if batch and not blocked.is_set():
            blocked.set()
            time.sleep(1.0)  # noqa: ASYNC251  # longer than the deadline of a statement, and so is the answer under way
            await asyncio.sleep(0.4)
        return batch

    monkeypatch.setattr(Lane, "_claim", claim)
    handle = queue.enqueue(effects.Plain(number=3))
    settings = short_lease(heartbeat="100ms", statement_deadline="300ms")
    async with Runner(AsyncQueue(migrated_database, settings=settings)) as runner:
        await eventually(lambda: handle.status() is Status.SUCCEEDED)
        assert runner.stats().lost_leases == 0
    assert blocked.is_set()
    assert connection.execute("SELECT attempt FROM pgqueue.history").fetchall() == [(1,)]


@pytest.mark.parametrize("outcome", ["succeeded", "retried", "dead"])
async def test_a_settle_whose_reply_was_lost_is_no_lost_lease(
    outcome: str, queue: Queue, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, lost = Completer._execute, threading.Event()

    async def execute(self: Completer, statement: Statement, parameters: dict[str, Any]) -> set[str]:
        settled = await genuine(self, statement, parameters)
        if not lost.is_set():
            lost.set()
            await self._link.drop()
            raise psycopg.OperationalError("the reply was lost")
        return settled

    monkeypatch.setattr(Completer, "_execute", execute)

    @task(retry=Retry(max_attempts=2 if outcome == "retried" else 1, initial=timedelta(hours=1)))
    class Settled(Task):
        async def run(self) -> None:
            if outcome != "succeeded":
                raise ValueError

    handles = queue.enqueue_many([Settled() for _ in range(5)])
    runner = await drain()
    assert lost.is_set()
    assert runner.stats().lost_leases == 0
    assert runner.stats().processed == 5
    expected = {"succeeded": Status.SUCCEEDED, "retried": Status.SCHEDULED, "dead": Status.DEAD}[outcome]
    assert {handle.status() for handle in handles} == {expected}


async def test_a_connection_killed_inside_a_transaction_block_fails_the_attempt_and_the_retry_succeeds(
    queue: Queue, drain: Drain, effect_table: Row
) -> None:
    @task(retry=Retry(max_attempts=2, initial=timedelta(0)))
    class Cut(Task):
        async def run(self) -> None:
            async with self.context.transaction() as connection:
                await connection.execute(effects.INSERT, (self.context.task_id, 0))
                if self.context.attempt == 1:
                    await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    handle = queue.enqueue(Cut())
    await drain()
    assert handle.status() is Status.SUCCEEDED
    assert_each_done_once(effect_table, 1)


# ── values that the server refuses ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("state", ["22000", "23514", "54000"])
async def test_of_a_batch_with_one_refused_row_only_the_culprit_is_dead_with_the_reason(
    state: str, queue: Queue, drain: Drain, connection: Row
) -> None:
    connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NEW.payload ->> 'number' = '7' THEN RAISE EXCEPTION 'seven is refused' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$"
    )
    connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON pgqueue.history FOR EACH ROW EXECUTE FUNCTION refuse()")
    handles = queue.enqueue_many([effects.Plain(number=index) for index in range(50)])
    await drain()
    statuses = [handle.status() for handle in handles]
    assert statuses.pop(7) is Status.DEAD
    assert set(statuses) == {Status.SUCCEEDED}
    record = queue.get(handles[7])
    assert record is not None
    assert record.reason is not None
    assert "seven is refused" in record.reason


async def test_an_error_of_the_server_that_persists_is_waited_out_and_does_not_spin(
    queue: Queue, migrated_database: str, connection: Row, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []
    genuine = Completer._execute

    async def execute(self: Completer, statement: Statement, parameters: dict[str, Any]) -> set[str]:
        tries.append(time.monotonic())
        return await genuine(self, statement, parameters)

    monkeypatch.setattr(Completer, "_execute", execute)
    connection.execute(
        "CREATE FUNCTION full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$".replace(
            "full()", "disk_full()"
        )
    )
    connection.execute("CREATE TRIGGER disk_full BEFORE INSERT ON pgqueue.history FOR EACH ROW EXECUTE FUNCTION disk_full()")
    handle = queue.enqueue(effects.Plain(number=1))
    async with Runner(AsyncQueue(migrated_database, settings=settings)):
        await eventually(lambda: len(tries) >= 7)
        assert tries[-1] - tries[0] > 0.5
        # Not by dropping the trigger: that wants a lock on the table, in another order than a settle takes its own.
        connection.execute(
            "CREATE OR REPLACE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
        )
        await eventually(lambda: handle.status() is Status.SUCCEEDED)


# ── leases ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rescue_and_settle_of_the_same_rows_never_deadlock_and_each_row_goes_one_way(
    migrated_database: str, connection: Row
) -> None:
    rounds, size = 60, 60
    runner, claim = uuid.uuid4(), uuid.uuid4()
    errors: list[psycopg.Error] = []

    def settle(own: Row, ids: list[str], found: set[str]) -> None:
        now = datetime.now(UTC)
        batch = [Claimed("default", str(claim), id, "plain", 1, 100, now, now, "{}", None, None) for id in ids]
        parameters = {"queue": "default", "runner_id": runner, "ids": ids, "claims": claims_object(batch), "outcomes": "{}"}
        found.update(row[0] for row in own.execute(SQL.settle.text, Parameters(parameters)).fetchall())

    def rescue(own: Row, ids: list[str], found: set[str]) -> None:
        found.update(
            row[0] for row in own.execute(SQL.rescue.text, Parameters(runner_id=runner, max_crashes=3, limit=size)).fetchall()
        )

    with psycopg.connect(migrated_database, autocommit=True) as one, psycopg.connect(migrated_database, autocommit=True) as other:
        for _ in range(rounds):
            connection.execute("TRUNCATE pgqueue.task, pgqueue.history")
            rows = connection.execute(
                "INSERT INTO pgqueue.task (type, status, runner_id, claim_id, claimed_at, attempt) SELECT 'plain', 'running', %s, %s, now(), 1"
                " FROM generate_series(1, %s) ORDER BY random() RETURNING id::text",
                (runner, claim, size),
            ).fetchall()
            ids, settled, rescued = sorted(row[0] for row in rows), set[str](), set[str]()
            barrier = threading.Barrier(2)

            def at_once(work: Any, own: Row, found: set[str], ids: list[str] = ids, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(10)
                try:
                    work(own, ids, found)
                except psycopg.Error as error:
                    errors.append(error)

            threads = [
                threading.Thread(target=at_once, args=arguments) for arguments in ((settle, one, settled), (rescue, other, rescued))
            ]  # fmt: skip
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            assert errors == []
            assert not settled & rescued
            assert number(connection, "SELECT count(*) FROM pgqueue.history") == len(settled)
            assert number(connection, "SELECT count(*) FROM pgqueue.task WHERE status = 'ready'") == len(rescued)


async def test_a_task_that_a_runner_lost_and_claimed_again_is_settled_by_the_second_claim_alone(
    queue: Queue, migrated_database: str, connection: Row
) -> None:
    runner, now = uuid.uuid4(), datetime.now(UTC)
    handle = queue.enqueue(effects.Plain())
    claims = [str(uuid.uuid4()) for _ in range(2)]
    told: list[tuple[str, bool]] = []
    for current in claims:
        connection.execute(
            "UPDATE pgqueue.task SET status = 'running', attempt = 1, runner_id = %s, claim_id = %s, claimed_at = now()",
            (runner, current),
        )
    link = Link(connection_parameters(migrated_database), name="settle", deadline_seconds=5.0)
    completer = Completer(
        SQL, link, runner_id=runner, on_settled=lambda one, is_ours: told.append((one.claimed.claim_id, is_ours))
    )
    for claim in reversed(claims):
        claimed = Claimed("default", claim, str(handle.id), "plain", 1, 100, now, now, "{}", None, None)
        completer.add(Settlement(claimed, Outcome(Verdict.SUCCEEDED, result=f'"{claim}"'), True))
    completer.close()
    await completer.run()
    await link.drop()
    assert connection.execute("SELECT claim_id::text, result FROM pgqueue.history").fetchall() == [(claims[1], claims[1])]
    assert sorted(told) == sorted([(claims[0], False), (claims[1], True)])


@pytest.mark.parametrize("way", ["rescue", "hand_back", "strays"])
def test_a_settle_of_unknown_outcome_does_not_take_a_row_that_was_given_back_for_its_own(
    way: str, queue: Queue, connection: Row
) -> None:
    runner, claim = uuid.uuid4(), uuid.uuid4()
    handle = queue.enqueue(effects.Plain())
    connection.execute(
        "UPDATE pgqueue.task SET status = 'running', attempt = 1, runner_id = %s, claim_id = %s, claimed_at = now()",
        (runner, claim),
    )
    statement = {"rescue": SQL.rescue, "hand_back": SQL.hand_back, "strays": SQL.strays}[way]
    more = {"max_crashes": 3, "limit": 10, "started_ids": [], "spared_ids": [], "claim_ids": [], "deadline": 0.0}
    assert len(connection.execute(statement.text, Parameters(more, runner_id=runner)).fetchall()) == 1
    asked = Parameters(queue="default", ids=[handle.id], claim_ids=[claim])
    assert connection.execute(SQL.settled_claims.text, asked).fetchall() == []


def enqueue_held(queue: Queue) -> tuple[TaskHandle[None], asyncio.Event, asyncio.Event]:
    """A task that sets the first event when it starts, and ends when the second is set."""
    started, release = asyncio.Event(), asyncio.Event()

    @task
    class Held(Task[None]):
        async def run(self) -> None:
            started.set()
            await release.wait()

    return queue.enqueue(Held()), started, release


async def watched_for_a_lease(connection: Row, watcher: Runner) -> None:
    """Wait until this runner has beaten, and so looked at the others, for longer than a lease."""
    row = connection.execute("SELECT clock_timestamp() + interval '1.6 s'").fetchone()
    assert row is not None
    beaten = "SELECT FROM pgqueue.runner WHERE id = %s AND heartbeat_at > %s"
    await eventually(lambda: connection.execute(beaten, (watcher.id, row[0])).fetchone() is not None)


async def test_a_runner_whose_row_was_deleted_registers_again_and_keeps_its_tasks(
    queue: Queue, migrated_database: str, connection: Row
) -> None:
    handle, started, release = enqueue_held(queue)
    settings = short_lease()
    async with Runner(AsyncQueue(migrated_database, settings=settings)) as runner:
        await started.wait()
        async with Runner(AsyncQueue(migrated_database, settings=settings), queues=["other"]) as watcher:
            # The task has been running for longer than a lease, and its runner is unknown for a moment.
            await eventually(
                lambda: number(
                    connection, "SELECT count(*) FROM pgqueue.task WHERE claimed_at < clock_timestamp() - interval '1.6 s'"
                )
            )
            connection.execute("DELETE FROM pgqueue.runner WHERE id = %s", (runner.id,))
            await eventually(
                lambda: connection.execute("SELECT FROM pgqueue.runner WHERE id = %s", (runner.id,)).fetchone() is not None
            )
            await watched_for_a_lease(connection, watcher)
            release.set()
            await eventually(lambda: handle.status() is Status.SUCCEEDED)
        assert runner.stats().lost_leases == 0
    assert connection.execute("SELECT attempt, crashes FROM pgqueue.history").fetchall() == [(1, 0)]


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
def test_only_the_connections_of_the_runner_that_is_gone_are_ended(plan: str, migrated_database: str) -> None:
    gone, bystander = uuid.uuid4(), uuid.uuid4()
    with (
        psycopg.connect(migrated_database, autocommit=True, application_name=f"pgqueue lane {gone}") as victim,
        psycopg.connect(migrated_database, autocommit=True, application_name=f"pgqueue lane {bystander}") as other,
        psycopg.connect(migrated_database, autocommit=True, prepare_threshold=0) as own,
    ):
        victim_pid = victim.info.backend_pid
        own.execute("SELECT set_config('plan_cache_mode', %s, false)", (plan,))
        assert own.execute(SQL.end_backends.text, {"runner_id": gone}).fetchall() == [(victim_pid,)]
        with pytest.raises(psycopg.errors.AdminShutdown):
            victim.execute("SELECT 1")
        assert (number(other, "SELECT 1"), number(own, "SELECT 2")) == (1, 2)


async def test_tasks_of_a_runner_that_nobody_knows_are_rescued_after_a_lease(
    queue: Queue, migrated_database: str, connection: Row
) -> None:
    handle = queue.enqueue(effects.Plain(number=1))
    connection.execute(
        "UPDATE pgqueue.task SET status = 'running', attempt = 1, runner_id = gen_random_uuid(), claim_id = gen_random_uuid(), claimed_at = now()"
    )
    async with Runner(AsyncQueue(migrated_database, settings=short_lease())):
        await eventually(lambda: handle.status() is Status.SUCCEEDED)
    assert connection.execute("SELECT attempt, crashes FROM pgqueue.history").fetchall() == [(1, 1)]


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[tuple[str, Callable[[bool], None]]]:
    """A way to the server through a proxy on loopback: its DSN, and what cuts (True) and mends (False) the line."""
    parts = conninfo_to_dict(dsn)
    host, port = str(parts.get("host", "127.0.0.1")), int(parts.get("port") or 5432)
    is_cut = False
    writers: set[asyncio.StreamWriter] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_cut:
            writer.close()
            return
        socket = f"{host}/.s.PGSQL.{port}"
        server = await (asyncio.open_unix_connection(socket) if host.startswith("/") else asyncio.open_connection(host, port))
        writers.update((writer, server[1]))
        await asyncio.gather(pump(reader, server[1]), pump(server[0], writer))

    def cut(now: bool) -> None:
        nonlocal is_cut
        is_cut = now
        if now:
            for writer in writers:
                writer.transport.abort()
            writers.clear()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        own_port = server.sockets[0].getsockname()[1]
        user = quote(str(parts.get("user") or "postgres"))
        password = f":{quote(str(parts['password']))}" if parts.get("password") else ""
        yield f"postgresql://{user}{password}@127.0.0.1:{own_port}/{quote(str(parts['dbname']))}", cut
        cut(True)


async def test_after_an_outage_longer_than_a_lease_nobody_takes_a_living_runner_for_dead(
    queue: Queue, migrated_database: str, connection: Row
) -> None:
    handle, started, release = enqueue_held(queue)
    async with proxied(migrated_database) as (dsn, cut):
        settings = short_lease()
        async with (
            Runner(AsyncQueue(dsn, settings=settings)) as runner,
            Runner(AsyncQueue(dsn, settings=settings), queues=["other"]) as watcher,
        ):
            await started.wait()
            await eventually(lambda: number(connection, "SELECT count(*) FROM pgqueue.runner") == 2)
            cut(True)
            outage = time.monotonic()
            await eventually(lambda: time.monotonic() - outage > 2.2)
            cut(False)
            await watched_for_a_lease(connection, watcher)
            release.set()
            await eventually(lambda: handle.status() is Status.SUCCEEDED)
            assert runner.stats().lost_leases == 0
    assert connection.execute("SELECT attempt, crashes FROM pgqueue.history").fetchall() == [(1, 0)]
