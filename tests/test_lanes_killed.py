"""Lanes and leases of real runner processes that are killed, stopped and cut off: nothing is lost, nothing ends twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue import AsyncQueue, Queue, Runner, Settings, Status, Task, registry, task
from tests.conftest import eventually, wait_until
from tests.programs import effects
from tests.programs.process import RunnerProcess, runner_process
from tests.test_lanes import trusted

Row = psycopg.Connection[Any]
Start = Callable[..., RunnerProcess]
LEASE = ("--lease", "1500ms", "--heartbeat", "300ms", "--concurrency", "20")
BATCH, KILLS, RUNNERS = 300, 800, 3
KILLING_SECONDS_MAX = 40.0
PAUSE_SECONDS = {"child": 1.5, "runner": 4.0, "stop": 4.0}
"""A process needs a second to come up; what is killed before it works is no test."""
LONG = "SELECT count(*) FROM pgqueue.task WHERE (payload ->> 'seconds')::float8 > 0"
LOCKED = f"""
SELECT ({LONG})
    - (SELECT count(*) FROM (SELECT FROM pgqueue.task WHERE (payload ->> 'seconds')::float8 > 0 FOR UPDATE SKIP LOCKED) AS free)
"""
RUNNING = "SELECT count(*) FROM pgqueue.task WHERE status = 'running'"
HISTORY = "SELECT count(*) FROM pgqueue.history"
KILL_LANES = """
SELECT count(pg_terminate_backend(lane.pid))
FROM (
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgqueue lane%%' OFFSET 0
) AS lane
WHERE random() < %s
"""


@pytest.fixture(autouse=True)
def known(own_tasks: None, connection: Row) -> None:
    """The tasks of the runner processes, known here too."""
    connection.execute(effects.TABLE)
    for value in vars(effects).values():
        task_type = getattr(value, "__task_type__", None)
        if task_type is not None:
            registry.add(task_type)


@pytest.fixture
def start(migrated_database: str, tmp_path: Path) -> Iterator[Start]:
    """`start("--processes", "2")`: a runner process on the test's database."""
    with ExitStack() as stack:
        count = iter(range(1_000))
        yield lambda *flags: stack.enter_context(
            runner_process(migrated_database, tmp_path / f"runner{next(count)}.log", *LEASE, *flags)
        )


def number(connection: Row, query: str, parameters: Any = None) -> int:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return int(row[0])


def assert_each_ended_once(connection: Row, count: int) -> None:
    assert number(connection, "SELECT count(*) FROM pgqueue.task") == 0
    assert number(connection, "SELECT count(*) FROM pgqueue.dead_task") == 0
    ended = "SELECT count(*), count(DISTINCT id) FROM pgqueue.history WHERE status = 'succeeded'"
    assert connection.execute(ended).fetchone() == (count, count)


# ── kills ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Killer:
    """Picks at random what to kill or to stop, and counts it."""

    def __init__(self, dice: random.Random, connection: Row, start: Start) -> None:
        self.dice = dice
        self.connection = connection
        self.start = start
        self.runners = [self._another() for _ in range(RUNNERS)]
        self.stopped: list[tuple[float, RunnerProcess]] = []
        self.kills: Counter[str] = Counter()
        self.pauses = {name: time.monotonic() + seconds for name, seconds in PAUSE_SECONDS.items()}
        self.locked_count = 0
        """Tasks that were locked when lanes were about to be killed."""

    def _another(self) -> RunnerProcess:
        return self.start("--processes", "2", "--patience", "200ms")

    def strike(self, now: float) -> None:
        for until, runner in list(self.stopped):
            if now >= until:
                self._go_on(until, runner)
        weapon = self.dice.choice([self.child, self.runner, self.stop])
        if now < self.pauses.get(weapon.__name__, 0.0):
            weapon = self.lanes
        self.pauses[weapon.__name__] = now + self.dice.uniform(0.5, 1.5) * PAUSE_SECONDS.get(weapon.__name__, 0.0)
        weapon(now)

    def lanes(self, now: float) -> None:
        self.locked_count += number(self.connection, LOCKED)
        self.kills["lanes"] += number(self.connection, KILL_LANES, (self.dice.choice([0.1, 0.3, 0.8]),))

    def child(self, now: float) -> None:
        pids = [pid for (pid,) in self.connection.execute("SELECT pid FROM pgqueue.runner WHERE kind = 'runner'")]
        if pids:
            try:
                os.kill(self.dice.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return  # of a runner that was killed, and is not yet missed
            self.kills["children"] += 1

    def runner(self, now: float) -> None:
        at = self.dice.randrange(len(self.runners))
        self.runners[at].signal_all(signal.SIGKILL)
        self.runners[at].wait()
        self.runners[at] = self._another()
        self.kills["runners"] += 1

    def stop(self, now: float) -> None:
        if not self.stopped:
            runner = self.dice.choice(self.runners)
            runner.signal_all(signal.SIGSTOP)
            self.stopped.append((now + self.dice.uniform(0.5, 3.0), runner))
            self.kills["stops"] += 1

    def relent(self) -> None:
        for until, runner in list(self.stopped):
            self._go_on(until, runner)
        for runner in self.runners:
            runner.signal_all(signal.SIGKILL)
        self.runners = [self._another()]

    def _go_on(self, until: float, runner: RunnerProcess) -> None:
        self.stopped.remove((until, runner))
        runner.signal_all(signal.SIGCONT)


def _some_task(dice: random.Random, at: int) -> Task[Any]:
    if at % 10 == 0:
        return effects.Effect(number=at, seconds=dice.choice([0.0, 0.05, 0.3]))
    return effects.Plain(number=at, seconds=dice.choice([0.0, 0.0, 0.01, 0.02]))


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_hundreds_of_kills_lose_nothing_and_double_nothing(
    queue: Queue, connection: Row, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    # Who is killed all the time is not to blame: none may die of it.
    monkeypatch.setenv("PGQUEUE_MAX_CRASHES", "1000")
    killer = Killer(dice, connection, start)
    count, deadline = 0, time.monotonic() + KILLING_SECONDS_MAX
    while sum(killer.kills.values()) < KILLS and time.monotonic() < deadline:
        # Of the ready ones: what was running in two crashes waits to run alone, and does not make room.
        if number(connection, "SELECT count(*) FROM pgqueue.task WHERE status = 'ready'") < BATCH:
            # Plain ones are quick enough to be locked; those with an effect own their row.
            queue.enqueue_many([_some_task(dice, at) for at in range(count, count + BATCH)])
            count += BATCH
        killer.strike(time.monotonic())
        time.sleep(dice.uniform(0.0, 0.05))
    killer.relent()
    statuses = connection.execute("SELECT status::text, count(*) FROM pgqueue.task GROUP BY 1").fetchall()
    print(f"left: {statuses}")
    print(f"{count} tasks, {killer.locked_count} locked, kills: {dict(killer.kills)}")
    wait_until(lambda: number(connection, "SELECT count(*) FROM pgqueue.task") == 0, timeout=60)
    assert killer.runners[0].stop() == 0
    assert sum(killer.kills.values()) >= KILLS / 8
    assert killer.locked_count > 0
    assert_each_ended_once(connection, count)
    assert number(connection, "SELECT count(*) FROM pgqueue.attempt") == 0
    effect = "SELECT count(*) FROM pgqueue.history WHERE type = 'effect'"
    assert connection.execute("SELECT count(*), count(DISTINCT task_id) FROM effect").fetchone() == (
        number(connection, effect), number(connection, effect),
    )  # fmt: skip
    wrong = "SELECT count(*) FROM pgqueue.history WHERE type = 'plain' AND result IS DISTINCT FROM payload -> 'number'"
    assert number(connection, wrong) == 0


# ── stops ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("claim", ["locked", "leased"])
def test_a_runner_stopped_beyond_its_lease_and_continued_ends_no_task_a_second_time(
    claim: str, queue: Queue, connection: Row, start: Start
) -> None:
    sleeper = start("--patience", "500ms" if claim == "locked" else "0s")
    for _ in range(15):  # one by one, so that each is a run to measure
        queue.enqueue(effects.Plain()).result(timeout=15)
    # A queue that was found empty is claimed from by lease first: so there is more than that.
    queue.enqueue_many([*[effects.Plain() for _ in range(2_000)], *[effects.Plain(seconds=0.4) for _ in range(100)]])
    wait_until(lambda: number(connection, LOCKED if claim == "locked" else f"{LONG} AND status = 'running'") >= 10)
    sleeper.signal_all(signal.SIGSTOP)
    held = number(connection, LOCKED) + number(connection, RUNNING)
    heir = start("--patience", "0s")
    wait_until(lambda: number(connection, HISTORY) == 2_115, timeout=30)
    sleeper.signal_all(signal.SIGCONT)
    assert heir.stop() == 0
    # It lives on, and works; what it had begun has ended elsewhere.
    queue.enqueue(effects.Plain()).result(timeout=15)
    assert sleeper.stop() == 0
    assert held >= 10
    assert_each_ended_once(connection, 2_116)


# ── a host that vanishes ────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def through_a_proxy(dsn: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A way to the server on which nothing passes while the event is clear; no connection is closed, as when packets are dropped."""
    parts = conninfo_to_dict(dsn)
    host, port = str(parts.get("host", "127.0.0.1")), int(parts.get("port") or 5432)
    passes = asyncio.Event()
    passes.set()
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await passes.wait()
                writer.write(data)
                await writer.drain()
            await passes.wait()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await passes.wait()
        path = f"{host}/.s.PGSQL.{port}"
        server = await (asyncio.open_unix_connection(path) if host.startswith("/") else asyncio.open_connection(host, port))
        pumps.update(asyncio.create_task(pump(*way)) for way in ((reader, server[1]), (server[0], writer)))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        user = quote(str(parts.get("user") or "postgres"))
        password = f":{quote(str(parts['password']))}" if parts.get("password") else ""
        own_port = proxy.sockets[0].getsockname()[1]
        yield f"postgresql://{user}{password}@127.0.0.1:{own_port}/{quote(str(parts['dbname']))}", passes
        passes.set()
        for one in pumps:
            one.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


@pytest.mark.slow
async def test_what_a_host_had_locked_that_vanished_is_free_within_the_lease_and_ends_once(
    queue: Queue, migrated_database: str, connection: Row
) -> None:
    lease = timedelta(seconds=2)
    settings = Settings(lease=lease, heartbeat="500ms", poll_interval="50ms", statement_deadline="1s", app="test")  # type: ignore[arg-type]
    go_on, runs = asyncio.Event(), Counter[int]()

    @task
    class Waiting(Task[int]):
        number: int
        seconds: float = 1.0

        async def run(self) -> int:
            runs[self.number] += 1
            if runs[self.number] == 1:
                await go_on.wait()
            return runs[self.number]

    async with through_a_proxy(migrated_database) as (dsn, passes):
        async with Runner(AsyncQueue(dsn, settings=settings), patience=timedelta(seconds=60)) as vanishing:
            trusted(vanishing)
            handles = queue.enqueue_many([Waiting(number=at) for at in range(5)])
            await eventually(lambda: len(runs) == 5)
            assert (number(connection, LOCKED), number(connection, RUNNING)) == (5, 0)
            passes.clear()
            vanished_at = time.monotonic()
            # Nobody else is there to rescue: it is the server that ends the transaction.
            await eventually(lambda: number(connection, LOCKED) == 0)
            assert time.monotonic() - vanished_at < lease.total_seconds() + 0.5
            async with Runner(AsyncQueue(migrated_database, settings=settings)):
                await eventually(lambda: {handle.status() for handle in handles} == {Status.SUCCEEDED})
            passes.set()
            go_on.set()
            await eventually(lambda: vanishing.stats().lost_leases == 5, timeout=20)
    assert {handle.result(timeout=1) for handle in handles} == {2}
    assert_each_ended_once(connection, 5)
