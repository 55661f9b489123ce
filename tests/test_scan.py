"""What is behind the watermarks: found by scans from the head, in slices, within a bounded time."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Runner, Task, task
from pgqueue.context import Claimed
from pgqueue.database import connection_parameters
from pgqueue.lane import Lane
from pgqueue.link import Link
from pgqueue.scan import CLAIM_LIMIT, PAUSE_MIN_SECONDS, REST_PAUSE_SECONDS, HeadScan
from pgqueue.settings import Settings
from pgqueue.statements import statements
from pgqueue.strangers import Strangers
from pgqueue.watermark import QueueWatermarks
from tests.conftest import eventually
from tests.test_claim import numbers, register_note

SQL = statements("pgqueue")
Row = psycopg.Connection[Any]
HOUR = timedelta(hours=1)
WAIT_SECONDS_MAX = 30.0
"""How long a late commit may wait behind 1,000,000 dead entries: ten times what it takes on two idle cores."""


@dataclass
class Parts:
    """A lane and a scan of one runner that runs nothing."""

    lane: Lane
    scan: HeadScan
    strangers: Strangers
    watermarks: QueueWatermarks
    room: int | None = 1_000
    found: list[Claimed] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    async def scan_all(self) -> list[int]:
        """What scans find until each slice has been seen once more."""
        self.found.clear()
        seconds = PAUSE_MIN_SECONDS
        while not self.found and seconds == PAUSE_MIN_SECONDS:
            seconds = await self.scan.scan("default")
        return numbers(self.found)


@asynccontextmanager
async def parts(dsn: str, *types: str, delay: timedelta = HOUR) -> AsyncIterator[Parts]:
    links = [Link(connection_parameters(dsn), name=f"test {number}", deadline_seconds=20) for number in range(2)]
    watermarks, runner_id, names = QueueWatermarks(), uuid.uuid4(), list(types) or ["note"]
    try:
        lane = Lane(SQL, links[0], runner_id=runner_id, types=names, watermarks=watermarks)
        strangers = Strangers(
            SQL, links[1], types=names, delay=delay, watermarks=watermarks, on_ready=lambda queue: both.told.append(queue)
        )
        scan = HeadScan(
            SQL,
            links[1],
            runner_id=runner_id,
            types=names,
            watermarks=watermarks,
            queues=lambda: ["default"],
            strangers=strangers,
            room=lambda: both.room,
            on_claimed=lambda batch: both.found.extend(batch),
            on_ready=lambda queue: both.told.append(queue),
        )
        both = Parts(lane, scan, strangers, watermarks)
        yield both
    finally:
        for link in links:
            await link.drop()


def insert(
    connection: Row, count: int, *, type: str = "note", status: str = "ready", priority: int = 100, since: str = "1 h"
) -> None:
    """So many tasks, a millisecond apart, the first of them so long ago."""
    connection.execute(
        "INSERT INTO pgqueue.task (type, status, priority, maturity_at, payload)"
        " SELECT %s, %s::pgqueue.status, %s, now() - %s::interval + n * interval '1 ms', jsonb_build_object('number', n)"
        " FROM generate_series(1, %s) AS n",
        (type, status, priority, since, count),
    )


# ── what scans find ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_that_commits_late_behind_the_watermark_is_found(queue: Queue, migrated_database: str) -> None:
    note = register_note()
    async with parts(migrated_database) as one:
        with psycopg.connect(migrated_database) as late:
            queue.enqueue(note(number=1), connection=late)
            queue.enqueue(note(number=2))
            assert numbers(await one.lane.claim("default", 10)) == [2]
            assert await one.lane.claim("default", 10) == []
            late.commit()
        assert await one.lane.claim("default", 10) == []
        assert await one.scan_all() == [1]
    assert queue.list(status="running").tasks[0].runner_id is not None


async def test_a_task_with_an_instant_in_the_past_is_found(queue: Queue, migrated_database: str) -> None:
    note = register_note()
    queue.enqueue(note(number=1))
    async with parts(migrated_database) as one:
        assert numbers(await one.lane.claim("default", 10)) == [1]
        queue.enqueue(note(number=2), at=datetime.now(UTC) - timedelta(days=1))
        assert await one.scan_all() == [2]


async def test_a_task_that_another_runner_promoted_is_found(queue: Queue, migrated_database: str, connection: Row) -> None:
    note = register_note()
    queue.enqueue(note(number=1), delay=HOUR)
    async with parts(migrated_database) as one:
        queue.enqueue(note(number=2))
        assert numbers(await one.lane.claim("default", 10)) == [2]
        connection.execute(
            "UPDATE pgqueue.task SET status = 'ready', maturity_at = now() - interval '1 h' WHERE status = 'scheduled'"
        )
        assert await one.scan_all() == [1]


async def test_a_scan_finds_in_every_slice_of_every_priority_and_hands_over_in_order(
    migrated_database: str, connection: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.watermark.STEP_TASKS", 10)
    for priority in (100, 200):
        insert(connection, 60, priority=priority)
    async with parts(migrated_database) as one:
        while await one.lane.claim("default", 10):
            pass
        assert len(one.watermarks["default"].slices()) > 6
        connection.execute(
            "UPDATE pgqueue.task SET status = 'ready', runner_id = NULL WHERE (payload ->> 'number')::integer IN (1, 17, 42, 59)"
        )
        taken: list[tuple[int, int]] = []
        while len(taken) < 8 and (found := await one.scan_all()):
            batch = [(-claimed.priority, number) for claimed, number in zip(one.found, found, strict=True)]
            assert batch == sorted(batch)
            taken += batch
        assert sorted(taken) == [(-priority, number) for priority in (200, 100) for number in (1, 17, 42, 59)]


async def test_a_scan_takes_no_more_than_there_is_room_for_and_comes_back_for_the_rest(
    migrated_database: str, connection: Row
) -> None:
    insert(connection, 1, since="1 m")
    async with parts(migrated_database) as one:
        assert len(await one.lane.claim("default", 10)) == 1
        insert(connection, 2 * CLAIM_LIMIT)
        one.room = 3
        assert await one.scan_all() == [1, 2, 3]
        one.room = 10_000
        assert await one.scan_all() == list(range(4, 4 + CLAIM_LIMIT))
        assert len(await one.scan_all()) == CLAIM_LIMIT - 3
        assert await one.scan_all() == []


async def test_without_room_a_scan_takes_the_watermark_back_to_what_it_sees(migrated_database: str, connection: Row) -> None:
    insert(connection, 1, since="1 m")
    async with parts(migrated_database) as one:
        await one.lane.claim("default", 10)
        insert(connection, 5)
        one.room = 0
        assert (await one.scan_all(), one.told) == ([], ["default"])
        assert connection.execute("SELECT count(*) FROM pgqueue.task WHERE status = 'ready'").fetchone() == (5,)
        assert numbers(await one.lane.claim("default", 10)) == [1, 2, 3, 4, 5]


async def test_a_scan_leaves_alone_what_others_hold_by_lock(migrated_database: str, connection: Row) -> None:
    insert(connection, 1, since="1 m")
    async with parts(migrated_database) as one:
        await one.lane.claim("default", 10)
        insert(connection, 3)
        with connection.transaction():
            connection.execute("SELECT FROM pgqueue.task WHERE status = 'ready' AND payload ->> 'number' <> '3' FOR UPDATE")
            one.room = 0
            await one.scan_all()
            assert one.watermarks["default"].slices()[-1].upper_id == _id(connection, 3)
            one.room = 10
        assert numbers(await one.lane.claim("default", 10)) == [3]
        assert await one.scan_all() == [1, 2]


def _id(connection: Row, number: int) -> str:
    row = connection.execute(
        "SELECT id::text FROM pgqueue.task WHERE status = 'ready' AND payload ->> 'number' = %s", (str(number),)
    ).fetchone()
    assert row is not None
    return str(row[0])


async def test_a_paused_runner_scans_nothing(migrated_database: str, connection: Row) -> None:
    insert(connection, 1, since="1 m")
    async with parts(migrated_database) as one:
        await one.lane.claim("default", 10)
        insert(connection, 3)
        one.room = None
        assert await one.scan_all() == []
        one.room = 1
        assert await one.scan_all() == [1]


async def test_while_another_runner_scans_this_one_waits_and_loses_no_slice(migrated_database: str, connection: Row) -> None:
    insert(connection, 1, since="1 m")
    async with parts(migrated_database) as one:
        await one.lane.claim("default", 10)
        insert(connection, 3)
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('pgqueue scan pgqueue', 0))")
            assert PAUSE_MIN_SECONDS <= await one.scan.scan("default") <= 2 * PAUSE_MIN_SECONDS
            assert one.found == []
        assert await one.scan_all() == [1, 2, 3]


# ── what scans cost ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_at_rest_a_cheap_queue_is_claimed_from_its_head_again_and_scans_end(
    migrated_database: str, connection: Row
) -> None:
    insert(connection, 20)
    async with parts(migrated_database) as one:
        await one.lane.claim("default", 100)
        await eventually(lambda: _scan_until_whole(one))
        insert(connection, 1, since="2 h")
        assert numbers(await one.lane.claim("default", 10)) == [1]


async def _scan_until_whole(one: Parts) -> bool:
    await one.scan.scan("default")
    return one.watermarks["default"].is_whole


async def test_the_longer_nothing_is_found_the_rarer_are_scans(
    migrated_database: str, connection: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.scan.CHEAP_SECONDS", 0.0)  # a head that is always dear
    insert(connection, 20)
    async with parts(migrated_database) as one:
        await one.lane.claim("default", 100)
        pauses = [await one.scan.scan("default") for _ in range(15)]
        assert pauses[-1] == REST_PAUSE_SECONDS
        one.scan.hurry()
        assert await one.scan.scan("default") < 1.0


async def test_an_idle_runner_asks_a_few_times_a_minute(async_queue: AsyncQueue, connection: Row, migrated_database: str) -> None:
    note = register_note()
    async with Runner(async_queue):
        handle = await async_queue.enqueue(note(number=1))
        await handle.result(timeout=10)
        counted = Counted(connection)
        await eventually(lambda: counted.is_at_rest())


class Counted:
    """Watches the scan's connection until it has been idle for two seconds on end."""

    def __init__(self, connection: Row) -> None:
        self._connection = connection

    def is_at_rest(self) -> bool:
        rows = self._connection.execute(
            "SELECT state = 'idle' AND clock_timestamp() - state_change > interval '2 s' FROM pg_stat_activity"
            " WHERE application_name = 'pgqueue scan' AND datname = current_database()"
        ).fetchall()
        return rows == [(True,)]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_beside_a_million_dead_entries_and_an_old_snapshot_a_late_commit_runs_within_seconds(
    migrated_database: str, connection: Row, queue: Queue
) -> None:
    ran_at: dict[int, float] = {}

    @task(name="note")
    class Note(Task):
        number: int = 0

        async def run(self) -> None:
            if self.number < 0:
                ran_at[self.number] = time.monotonic()

    connection.execute("ALTER TABLE pgqueue.task SET (autovacuum_enabled = off)")
    settings = Settings(poll_interval="50ms", log_level="warning")  # type: ignore[arg-type]
    with psycopg.connect(migrated_database) as old, psycopg.connect(migrated_database) as late:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")
        late.execute("SELECT 1")
        insert(connection, 1_000_000)
        async with Runner(AsyncQueue(migrated_database, settings=settings), concurrency=10) as runner:
            await eventually(lambda: runner.stats().processed >= 1_000_000, timeout=200)
            stop = asyncio.Event()
            busy = asyncio.create_task(_keep_busy(queue, Note, stop))
            start = datetime.now(UTC)
            waits = []
            for number, minutes in enumerate((61.0, 55.0, 43.5), start=1):
                queue.enqueue(Note(number=-number), at=start - timedelta(minutes=minutes), connection=late)
                late.commit()
                since = time.monotonic()
                await eventually(lambda number=number: -number in ran_at, timeout=WAIT_SECONDS_MAX)
                waits.append(ran_at[-number] - since)
            stop.set()
            await busy
    print(f"waited for {', '.join(f'{wait:.1f} s' for wait in waits)}")


async def _keep_busy(queue: Queue, note: Callable[..., Task[None]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        await asyncio.to_thread(queue.enqueue_many, [note(number=number) for number in range(2_000)])
        await asyncio.sleep(0.05)
