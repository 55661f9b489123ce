"""Tasks that crashed their process: how a crash is counted, and how a suspect runs alone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Retry, Runner, Status, Task, task
from pgqueue.database import Parameters
from pgqueue.settings import Settings
from pgqueue.statements import statements
from tests.conftest import eventually

Drain = Callable[..., Awaitable[Runner]]
Row = psycopg.Connection[Any]
SQL = statements("pgqueue")
RUNNER, HEIR, CLAIM = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()


def execute(connection: Row, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return connection.execute(getattr(SQL, name).text, Parameters(parameters)).fetchall()


def insert(connection: Row, *, status: str, crashes: int = 0, runner: uuid.UUID | None = RUNNER, type: str = "plain") -> str:
    """A row in this state; its id."""
    is_running = status == "running"
    row = connection.execute(
        "INSERT INTO pgqueue.task (type, status, blocked_on, crashes, attempt, runner_id, claim_id, claimed_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, now()) RETURNING id::text",
        (
            type, status, "suspect" if status == "blocked" else None, crashes, int(is_running),
            runner if is_running else None, CLAIM if is_running else None,
        ),
    ).fetchone()  # fmt: skip
    assert row is not None
    return str(row[0])


def state(connection: Row, id: str) -> tuple[Any, ...]:
    row = connection.execute(
        "SELECT status::text, blocked_on, attempt, crashes, runner_id FROM pgqueue.task WHERE id = %s", (id,)
    ).fetchone()
    assert row is not None
    return tuple(row)


# ── how a crash is counted ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("before", "is_started", "after"),
    [
        (0, False, ("ready", None, 0, 0, None)),
        (0, True, ("ready", None, 0, 1, None)),
        (1, False, ("ready", None, 0, 1, None)),
        (1, True, ("blocked", "suspect", 0, 2, None)),
        (2, False, ("blocked", "suspect", 0, 2, None)),
        (3, True, ("blocked", "suspect", 0, 4, None)),
    ],
)
def test_a_dead_child_gives_back_what_it_held_and_counts_for_what_it_had_started(
    before: int, is_started: bool, after: tuple[Any, ...], connection: Row
) -> None:
    id, other = insert(connection, status="running", crashes=before), insert(connection, status="running", runner=HEIR)
    started = [id] if is_started else []
    assert execute(
        connection, "hand_back", runner_id=RUNNER, started_ids=started, spared_ids=[], max_crashes=3, limit=10
    ) == [(id, after[0])]  # fmt: skip
    assert state(connection, id) == after
    assert state(connection, other)[0] == "running"


@pytest.mark.parametrize("way", ["hand_back", "rescue"])
def test_one_that_crashed_often_enough_alone_is_dead_with_the_reason(way: str, connection: Row) -> None:
    id = insert(connection, status="running", crashes=4)
    rows = execute(connection, way, runner_id=RUNNER, started_ids=[id], spared_ids=[], max_crashes=3, limit=10)
    assert rows == [(id, "dead")]
    reason = "its process crashed 5 times, 3 of them while it ran alone"
    assert connection.execute("SELECT attempt, crashes, error FROM pgqueue.dead_task").fetchall() == [(1, 5, reason)]
    assert connection.execute("SELECT attempt, error_type, error FROM pgqueue.attempt").fetchall() == [
        (1, "ProcessCrashed", reason)
    ]
    assert connection.execute("SELECT FROM pgqueue.task").fetchall() == []


def test_a_rescue_counts_for_every_row_and_makes_suspects_as_well(connection: Row) -> None:
    ids = [insert(connection, status="running", crashes=crashes) for crashes in (0, 1, 2)]
    assert len(execute(connection, "rescue", runner_id=RUNNER, max_crashes=3, limit=10)) == 3
    assert [state(connection, id)[:4] for id in ids] == [
        ("ready", None, 0, 1), ("blocked", "suspect", 0, 2), ("blocked", "suspect", 0, 3)
    ]  # fmt: skip


def test_rows_that_were_only_locked_are_counted_too_and_locked_ones_skipped(connection: Row, migrated_database: str) -> None:
    first, second, held = (insert(connection, status="ready", crashes=crashes) for crashes in (0, 1, 0))
    leased, elsewhere = insert(connection, status="running"), insert(connection, status="running", runner=HEIR)
    ids = [first, second, held, leased, elsewhere]
    with psycopg.connect(migrated_database) as other:
        other.execute("SELECT FROM pgqueue.task WHERE id = %s FOR UPDATE", (held,))
        marked = execute(connection, "mark_crashed", runner_id=RUNNER, queues=["default"] * 5, ids=ids)
    assert {id for (id,) in marked} == {first, second, elsewhere}
    assert [state(connection, id)[:4] for id in ids] == [
        ("ready", None, 0, 1), ("blocked", "suspect", 0, 2), ("ready", None, 0, 0),
        ("running", None, 1, 0), ("running", None, 1, 1),
    ]  # fmt: skip


def test_a_successor_takes_over_what_is_leased_and_what_was_only_locked_and_nothing_else(connection: Row) -> None:
    leased, locked = insert(connection, status="running"), insert(connection, status="ready")
    elsewhere = insert(connection, status="running", runner=HEIR)
    claim, new = uuid.uuid4(), uuid.uuid4()
    rows = execute(
        connection,
        "take_over",
        old_runner_id=RUNNER,
        runner_id=new,
        claim_id=claim,
        queues=["default"] * 3,
        ids=[leased, locked, elsewhere],
    )
    assert sorted((row[1], row[3]) for row in rows) == sorted([(leased, 1), (locked, 1)])
    assert [state(connection, id)[0::4] for id in (leased, locked, elsewhere)] == [
        ("running", new), ("running", new), ("running", HEIR)
    ]  # fmt: skip


# ── how a suspect runs ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_runner_without_a_supervisor_runs_a_suspect_when_nothing_else_is_in_hand(
    queue: Queue, drain: Drain, connection: Row
) -> None:
    running: set[str] = set()
    together: list[set[str]] = []

    @task
    class Plain(Task):
        async def run(self) -> None:
            id = str(self.context.task_id)
            running.add(id)
            await asyncio.sleep(0.02)
            together.append(set(running))
            running.remove(id)

    suspects = {insert(connection, status="blocked", crashes=2) for _ in range(2)}
    queue.enqueue_many([Plain() for _ in range(20)])
    await drain()
    assert len(together) == 22
    assert max(map(len, together)) > 1
    assert [len(company) for company in together if company & suspects] == [1, 1]
    assert connection.execute("SELECT DISTINCT crashes, attempt FROM pgqueue.history ORDER BY 1").fetchall() == [(0, 1), (2, 1)]


@pytest.mark.parametrize("delay", [0, 30])
async def test_a_suspect_that_fails_waits_to_run_alone_again(
    delay: int, queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    @task(retry=Retry(max_attempts=3, initial=timedelta(milliseconds=delay), jitter=0))
    class Failing(Task):
        async def run(self) -> None:
            seen.append(connection.execute("SELECT status::text, crashes FROM pgqueue.task").fetchall())
            raise ValueError

    seen: list[Any] = []
    id = insert(connection, status="blocked", crashes=2, type="failing")
    async with Runner(AsyncQueue(migrated_database, settings=settings)):
        await eventually(lambda: len(seen) == 1)
        await eventually(lambda: state(connection, id)[:3] == ("blocked", "suspect", 1))
        await eventually(lambda: queue.get(uuid.UUID(id)).status is Status.DEAD)  # type: ignore[union-attr]
    assert [attempt.error_type for attempt in queue.attempts(uuid.UUID(id))] == ["ValueError"] * 3


async def test_an_ordinary_claim_never_takes_a_suspect(queue: Queue, drain: Drain, connection: Row) -> None:
    @task
    class Known(Task):
        async def run(self) -> None: ...

    id = insert(connection, status="blocked", crashes=2, type="unknown")
    handle = queue.enqueue(Known())
    await drain()
    assert handle.status() is Status.SUCCEEDED
    assert state(connection, id)[:2] == ("blocked", "suspect")


async def test_a_runner_knows_how_many_there_are(queue: Queue, migrated_database: str, settings: Settings) -> None:
    @task
    class Known(Task):
        async def run(self) -> None: ...

    async with Runner(AsyncQueue(migrated_database, settings=settings)) as first:
        async with Runner(AsyncQueue(migrated_database, settings=settings)) as second:
            await eventually(lambda: first._running().board.peers == second._running().board.peers == 2)
        await eventually(lambda: first._running().board.peers == 1)
