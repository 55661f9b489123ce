"""Tasks of types that no live runner knows: passed by, blocked, reported, and freed when a runner comes that knows them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Runner, Status, Task, task
from pgqueue.settings import Settings
from pgqueue.strangers import BLOCK_BATCH, LOOK_LIMIT
from tests.conftest import eventually
from tests.test_claim import numbers, register_note
from tests.test_scan import Parts, insert, parts

Row = psycopg.Connection[Any]
NOW = timedelta(0)


def known(connection: Row, *types: str, queues: list[str] | None = None, kind: str = "runner") -> None:
    """A live runner, or scheduler, that knows these types."""
    connection.execute(
        "INSERT INTO pgqueue.runner (id, name, kind, host, pid, version, types, queues) VALUES (%s, 'x', %s, 'h', 1, '1', %s, %s)",
        (uuid.uuid4(), kind, list(types), queues),
    )


def standing(connection: Row) -> dict[tuple[str, str], int]:
    rows = connection.execute("SELECT type, status::text, count(*) FROM pgqueue.task GROUP BY 1, 2").fetchall()
    return {(type, status): count for type, status, count in rows}


async def look(one: Parts) -> int:
    """Look ahead until there is nothing left to pass by. Returns in how many statements."""
    count = 1
    while await one.strangers.look_ahead("default") == 0.0:
        count += 1
    return count


async def block(one: Parts) -> None:
    while await one.strangers.block("default") == 0.0:
        pass


# ── passed by ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("priority", [300, 100, 5], ids=["above", "same", "below"])
async def test_claims_start_behind_strangers_of_any_priority(migrated_database: str, connection: Row, priority: int) -> None:
    insert(connection, 50, type="stranger", priority=priority)
    insert(connection, 5, since="1 m")
    async with parts(migrated_database) as one:
        await look(one)
        first = {-slice.priority: slice.upper_maturity for slice in one.watermarks["default"].slices()}
        assert list(first) == [priority]
        assert numbers(await one.lane.claim("default", 10)) == [1, 2, 3, 4, 5]
        await look(one)
        assert priority in {-slice.priority for slice in one.watermarks["default"].slices()}


async def test_a_look_ahead_walks_a_bounded_number_and_stops_before_what_is_known(
    migrated_database: str, connection: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.strangers.LOOK_LIMIT", 10)
    insert(connection, 35, type="stranger")
    insert(connection, 1, since="30 m")
    insert(connection, 20, type="stranger", since="20 m")
    async with parts(migrated_database) as one:
        assert await look(one) >= 4
        assert len(await one.lane.claim("default", 10)) == 1
        assert LOOK_LIMIT > 10


async def test_a_look_ahead_passes_nothing_that_is_known(migrated_database: str, connection: Row) -> None:
    insert(connection, 10)
    async with parts(migrated_database) as one:
        await look(one)
        assert one.watermarks["default"].is_whole


# ── blocked ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_no_live_runner_knows_is_blocked_and_reported_once(
    migrated_database: str, connection: Row, caplog: pytest.LogCaptureFixture
) -> None:
    known(connection, "note", "other")
    known(connection, "stranger", kind="scheduler")
    known(connection, "stranger", queues=["another queue"])
    for name in ("stranger", "other"):
        insert(connection, 2 * BLOCK_BATCH + 7, type=name)
    insert(connection, 3, type="stranger-2", priority=7)
    async with parts(migrated_database, delay=NOW) as one:
        await look(one)
        await block(one)
        assert standing(connection) == {
            ("stranger", "blocked"): 2 * BLOCK_BATCH + 7,
            ("stranger-2", "blocked"): 3,
            ("other", "ready"): 2 * BLOCK_BATCH + 7,
        }
        assert connection.execute("SELECT DISTINCT blocked_on FROM pgqueue.task WHERE status = 'blocked'").fetchall() == [
            ("type",)
        ]
        insert(connection, 1, type="stranger")
        await look(one)
        await block(one)
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split(" are blocked")[0] for message in messages] == [
        "4007 tasks of type 'stranger' in queue 'default'",
        "3 tasks of type 'stranger-2' in queue 'default'",
    ]


async def test_nothing_is_blocked_before_it_has_been_ready_for_the_delay(migrated_database: str, connection: Row) -> None:
    known(connection, "note")
    insert(connection, 3, type="stranger")  # an old maturity, but a row that has only just come
    async with parts(migrated_database, delay=timedelta(minutes=1)) as one:
        await look(one)
        await block(one)
        assert standing(connection) == {("stranger", "ready"): 3}
        connection.execute("UPDATE pgqueue.task SET updated_at = now() - interval '61 s' WHERE payload ->> 'number' = '2'")
        await block(one)
        assert standing(connection) == {("stranger", "ready"): 2, ("stranger", "blocked"): 1}


async def test_what_others_hold_by_lock_is_not_waited_for(migrated_database: str, connection: Row) -> None:
    known(connection, "note")
    insert(connection, 3, type="stranger")
    async with parts(migrated_database, delay=NOW) as one:
        await look(one)
        with connection.transaction():
            connection.execute("SELECT FROM pgqueue.task WHERE payload ->> 'number' = '1' FOR UPDATE")
            await block(one)
        assert standing(connection) == {("stranger", "ready"): 1, ("stranger", "blocked"): 2}


async def test_another_spelling_of_a_known_type_becomes_canonical_and_runs(migrated_database: str, connection: Row) -> None:
    known(connection, "note")
    insert(connection, 3, type="NO_TE")
    insert(connection, 1, since="1 m")
    async with parts(migrated_database, delay=timedelta(hours=1)) as one:
        assert len(await one.lane.claim("default", 10)) == 1
        await block(one)
        assert standing(connection) == {("note", "ready"): 3, ("note", "running"): 1}
        assert await one.scan_all() == [1, 2, 3]


# ── freed ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_runner_that_knows_the_type_frees_it_in_batches_and_claims_it(migrated_database: str, connection: Row) -> None:
    count = BLOCK_BATCH + 5
    for name in ("stranger", "no-stranger", "STRAN-GER"):
        insert(connection, count, type=name)
    connection.execute("UPDATE pgqueue.task SET status = 'blocked', blocked_on = 'type'")
    insert(connection, 1, type="stranger")
    connection.execute("UPDATE pgqueue.task SET status = 'blocked', blocked_on = 'slot' WHERE status = 'ready'")
    insert(connection, 1, type="stranger", since="1 m")
    async with parts(migrated_database, "stranger") as one:
        assert len(await one.lane.claim("default", 10)) == 1
        statements = 1
        while await one.strangers.free("default") == 0.0:
            statements += 1
        assert statements == 3
        assert one.told == ["default"] * 3
        assert standing(connection) == {
            ("stranger", "ready"): 2 * count,
            ("no-stranger", "blocked"): count,
            ("stranger", "blocked"): 1,
            ("stranger", "running"): 1,
        }
        assert len(await one.lane.claim("default", 10_000)) == 2 * count


async def test_a_stranger_is_blocked_by_one_runner_and_run_by_the_next(
    queue: Queue, migrated_database: str, connection: Row, drain: Callable[..., Awaitable[Runner]]
) -> None:
    register_note()

    @task
    class Newer(Task):
        async def run(self) -> None: ...

    settings = Settings(poll_interval="50ms", unknown_type_delay="100ms", app="test")  # type: ignore[arg-type]
    handles = [queue.enqueue(Newer(), priority=priority) for priority in (1, 100, 100, 200)]
    async with Runner(AsyncQueue(migrated_database, settings=settings), types=["note"]):
        await eventually(lambda: standing(connection) == {("newer", "blocked"): 4})
    assert {handle.status() for handle in handles} == {Status.BLOCKED}
    async with Runner(AsyncQueue(migrated_database, settings=settings), types=["newer"]):
        await eventually(lambda: {handle.status() for handle in handles} == {Status.SUCCEEDED})


# ── what else may happen to them ────────────────────────────────────────────────────────────────────────────────────


async def test_a_blocked_task_is_cancelled_at_once(queue: Queue, connection: Row) -> None:
    note = register_note()
    handles = [queue.enqueue(note(number=number)) for number in range(3)]
    connection.execute("UPDATE pgqueue.task SET status = 'blocked', blocked_on = 'type'")
    assert handles[0].cancel()
    assert queue.cancel_all(status=Status.BLOCKED) == 2
    assert {handle.status() for handle in handles} == {Status.CANCELLED}


async def test_a_blocked_task_expires(queue: Queue, connection: Row, migrated_database: str, settings: Settings) -> None:
    note = register_note()
    handle = queue.enqueue(note(number=1), expires=timedelta(milliseconds=1))
    connection.execute("UPDATE pgqueue.task SET status = 'blocked', blocked_on = 'type'")
    async with Runner(AsyncQueue(migrated_database, settings=settings), types=["note"]):
        await eventually(lambda: handle.status() is Status.CANCELLED)
