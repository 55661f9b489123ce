"""What a claim takes, in which order, and how the server goes about it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Runner, Status, Task, task
from pgqueue.aging import PRIORITIES_LIMIT
from pgqueue.completer import claims_object
from pgqueue.context import Claimed
from pgqueue.database import Parameters, connection_parameters
from pgqueue.lane import Lane
from pgqueue.link import Link
from pgqueue.settings import Settings
from pgqueue.statements import Statements, statements
from pgqueue.watermark import PRIORITIES_MAX, WHOLE, QueueWatermarks, Watermarks
from tests.conftest import eventually

SQL = statements("pgqueue")
Row = psycopg.Connection[Any]


@asynccontextmanager
async def lane(dsn: str, *types: str) -> AsyncIterator[Lane]:
    """A lane of a runner of its own."""
    link = Link(connection_parameters(dsn), name="test", deadline_seconds=10)
    try:
        yield Lane(SQL, link, runner_id=uuid.uuid4(), types=list(types) or ["note"], watermarks=QueueWatermarks())
    finally:
        await link.drop()


def register_note() -> type[Any]:
    @task(name="note")
    class Note(Task):
        number: int = 0

        async def run(self) -> None: ...

    return Note


def numbers(batch: list[Claimed]) -> list[int]:
    return [json.loads(claimed.payload)["number"] for claimed in batch]


# ── the order ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_higher_priority_runs_first_and_within_one_the_earlier_enqueued(queue: Queue, migrated_database: str) -> None:
    note = register_note()
    for number, priority in enumerate([100, 5, 200, 100, -7, 200]):
        queue.enqueue(note(number=number), priority=priority)
    async with lane(migrated_database) as one:
        assert numbers(await one.claim("default", 10)) == [2, 5, 0, 3, 1, 4]


async def test_a_task_is_not_claimed_before_its_maturity_however_high_its_priority(queue: Queue, migrated_database: str) -> None:
    note = register_note()
    queue.enqueue(note(number=1), delay=timedelta(hours=1), priority=30_000)
    queue.enqueue(note(number=2))
    async with lane(migrated_database) as one:
        assert numbers(await one.claim("default", 10)) == [2]
        assert await one.claim("default", 10) == []


async def test_a_claim_never_takes_a_type_that_its_runner_does_not_know(
    queue: Queue, migrated_database: str, connection: Row
) -> None:
    note = register_note()
    connection.execute("INSERT INTO pgqueue.task (type, status) VALUES ('newer', 'ready')")
    queue.enqueue(note(number=1))
    async with lane(migrated_database) as one:
        assert numbers(await one.claim("default", 10)) == [1]
        assert await one.claim("default", 10) == []
    assert connection.execute("SELECT status::text FROM pgqueue.task WHERE type = 'newer'").fetchall() == [("ready",)]


async def test_a_runner_of_one_type_leaves_the_others(queue: Queue, drain: Callable[..., Awaitable[Runner]]) -> None:
    @task
    class Mine(Task):
        async def run(self) -> None: ...

    @task
    class Theirs(Task):
        async def run(self) -> None: ...

    mine, theirs = queue.enqueue(Mine()), queue.enqueue(Theirs())
    await drain(types=["MINE"])
    assert (mine.status(), theirs.status()) == (Status.SUCCEEDED, Status.READY)


async def test_queues_share_the_slots_by_weight(queue: Queue, drain: Callable[..., Awaitable[Runner]]) -> None:
    order: list[str] = []

    @task
    class Visit(Task):
        async def run(self) -> None:
            order.append(self.context.queue_name)
            await asyncio.sleep(0.002)

    for name in ("heavy", "light"):
        queue.enqueue_many([Visit() for _ in range(60)], queue=name)
    await drain(queues={"heavy": 3, "light": 1}, concurrency=1)
    counts = Counter(order[:60])
    assert 38 <= counts["heavy"] <= 52, counts
    assert len(order) == 120


async def test_a_queue_that_appears_later_is_served_too_unless_queues_were_named(
    queue: Queue, settings: Settings, migrated_database: str
) -> None:
    note = register_note()
    everything = Runner(AsyncQueue(migrated_database, settings=settings))
    async with everything:
        handle = queue.enqueue(note(), queue="appeared later")
        await eventually(lambda: handle.status() is Status.SUCCEEDED)
    async with Runner(AsyncQueue(migrated_database, settings=settings), queues=["default"]):
        other, own = queue.enqueue(note(), queue="another"), queue.enqueue(note())
        await eventually(lambda: own.status() is Status.SUCCEEDED)
        assert other.status() is Status.READY


async def test_four_concurrent_claimers_never_share_a_task(queue: Queue, migrated_database: str) -> None:
    note = register_note()
    count = 4_000
    queue.enqueue_many([note(number=number) for number in range(count)])
    taken: list[int] = []

    async def claim_all(one: Lane) -> None:
        misses = 0
        while misses < 3:
            batch = await one.claim("default", 37)
            taken.extend(numbers(batch))
            misses = 0 if batch else misses + 1
            await asyncio.sleep(0)

    async with AsyncExitStack() as stack:
        lanes = [await stack.enter_async_context(lane(migrated_database)) for _ in range(4)]
        await asyncio.gather(*(claim_all(one) for one in lanes))
    assert sorted(taken) == list(range(count))


# ── the watermark ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_runner_gave_back_is_ahead_of_its_watermark_at_once(
    queue: Queue, migrated_database: str, connection: Row
) -> None:
    note = register_note()
    queue.enqueue_many([note(number=number) for number in range(5)])
    async with lane(migrated_database) as one:
        batch = await one.claim("default", 10)
        connection.execute("UPDATE pgqueue.task SET status = 'ready', runner_id = NULL WHERE payload ->> 'number' IN ('1', '2')")
        one.give_back(batch[1:3])
        assert numbers(await one.claim("default", 10)) == [1, 2]


async def test_a_higher_priority_that_comes_later_is_seen_by_the_very_next_claim(queue: Queue, migrated_database: str) -> None:
    note = register_note()
    queue.enqueue_many([note(number=number) for number in range(20)])
    async with lane(migrated_database) as one:
        await one.claim("default", 5)
        queue.enqueue(note(number=99), priority=101)
        queue.enqueue(note(number=98), priority=99)
        assert numbers(await one.claim("default", 1)) == [99]


# ── how the server goes about it ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def large_table(connection: Row) -> Row:
    """50,000 tasks: half ready, a quarter scheduled, a quarter running and held by one runner."""
    # Autovacuum would bring statistics in the middle of a test that wants none.
    connection.execute("ALTER TABLE pgqueue.task SET (autovacuum_enabled = off)")
    connection.execute(
        "INSERT INTO pgqueue.task (type, status, priority, payload, maturity_at, runner_id, claim_id, claimed_at)"
        " SELECT 'note', (CASE WHEN n % 4 < 2 THEN 'ready' WHEN n % 4 = 2 THEN 'scheduled' ELSE 'running' END)::pgqueue.status,"
        " 90 + n % 20, jsonb_build_object('number', n), now() - interval '1 d' + n * interval '1 s',"
        " CASE WHEN n % 4 = 3 THEN %s::uuid END, CASE WHEN n % 4 = 3 THEN %s::uuid END, CASE WHEN n % 4 = 3 THEN now() END"
        " FROM generate_series(1, 50000) AS n".replace("n % ", "n %% "),
        (RUNNER, CLAIM),
    )
    return connection


RUNNER, CLAIM = uuid.UUID(int=7), uuid.UUID(int=8)


SLICES = ("priorities", "lower_maturities", "lower_ids", "upper_maturities", "upper_ids")


def parameters(name: str, connection: Row) -> dict[str, Any]:
    """What the engine would send with a batch of 500."""
    rows = connection.execute("SELECT id::text FROM pgqueue.task WHERE status = 'running' ORDER BY random() LIMIT 500").fetchall()
    ids = sorted(row[0] for row in rows)
    now = datetime.now(UTC)
    batch = [Claimed("default", str(CLAIM), id, "note", 1, 100, now, now, "{}", None, None) for id in ids]
    none: list[Any] = [None] * len(ids)
    fence = {"queue": "default", "runner_id": RUNNER, "ids": "{" + ",".join(ids) + "}", "claim_ids": [str(CLAIM)] * len(ids)}
    failure = {"error_types": ["E"] * len(ids), "errors": ["e"] * len(ids), "tracebacks": none}
    watermarks = Watermarks()
    for priority in range(90, 110):
        row = connection.execute(
            "SELECT maturity_at, id::text FROM pgqueue.task"
            " WHERE status = 'ready' AND priority = %s ORDER BY 1, 2 OFFSET 200 LIMIT 1",
            (priority,),
        ).fetchone()
        if row is not None:
            watermarks.advance(
                [Claimed("default", str(CLAIM), row[1], "note", 1, priority, row[0], now, "{}", None, None)], 200, WHOLE
            )
    segments = watermarks.segments()._asdict()
    slices = dict(zip(SLICES, map(list, zip(*watermarks.slices(), strict=True)), strict=True))
    claim = {"queue": "default", "types": ["note", "other"], "runner_id": RUNNER, "claim_id": CLAIM, "limit": 500}
    aged = {"aging": timedelta(seconds=500), "reach": 1_000, "priorities": PRIORITIES_LIMIT}
    return {
        "claim": {**claim, **segments},
        "claim from the head": {**claim, **WHOLE._asdict()},
        "claim_aged": {**claim, **segments, **aged},
        "claim_aged from the head": {**claim, **WHOLE._asdict(), **aged},
        "lock_aged": {**claim, **segments, **aged, "leased_types": ["other"]},
        "settle": {
            **fence,
            "claims": claims_object(batch),
            "outcomes": "{}",
            "statuses": ["succeeded"] * len(ids),
            "results": none,
            "reasons": none,
        },
        "release": {**fence, **failure, "delays": [1.0] * len(ids), "refunds": [0] * len(ids), "marks": none},
        "bury": {**fence, **failure, "reasons": ["r"] * len(ids)},
        "discard": fence,
        "promote": {"queue": "default", "types": ["note"], "limit": 500},
        "scan_head": {**claim, **slices, "schema": "pgqueue"},
        "scan_peek": {**claim, **slices, "schema": "pgqueue"},
        "look_ahead": {**claim, **segments, "priorities": PRIORITIES_MAX},
        "block_types": {**claim, **watermarks.slices()[0]._asdict(), "delay": 0.0},
        "free_types": claim,
    }[name]


def scans(plan: Any, found: list[str] | None = None) -> list[str]:
    """The nodes of a plan that read the whole of `task`, or sort it."""
    found = [] if found is None else found
    kind, relation = plan["Node Type"], plan.get("Relation Name")
    if relation == "task" and kind == "Seq Scan":
        found.append(f"Seq Scan on {relation}")
    if kind == "Sort" and plan.get("Actual Rows", 0) > 1_000:
        found.append(f"Sort of {plan['Actual Rows']} rows")
    if relation == "task" and plan.get("Rows Removed by Filter", 0) > 5_000:
        found.append(f"{kind} that throws {plan['Rows Removed by Filter']} rows away")
    for child in plan.get("Plans", ()):
        scans(child, found)
    return found


AGED = ("claim_aged", "claim_aged from the head", "lock_aged")
SCANS = ("scan_head", "scan_peek", "look_ahead", "block_types", "free_types")


@pytest.mark.parametrize("is_analyzed", [False, True], ids=["without statistics", "with statistics"])
def test_hot_statements_use_the_indexes_at_50000_rows(is_analyzed: bool, large_table: Row) -> None:
    if large_table.info.server_version < 160000 and not is_analyzed:
        pytest.xfail("PostgreSQL 15 without statistics thinks that a queue holds few tasks, and reads all of them in a release")
    if is_analyzed:
        large_table.execute("ANALYZE pgqueue.task")
    found = {}
    for name in ("claim", "claim from the head", *AGED, "settle", "release", "bury", "discard", "promote", *SCANS):
        given = Parameters(parameters(name, large_table))
        text = getattr(SQL, name.partition(" ")[0]).text
        for mode in ("force_custom_plan", "force_generic_plan", "auto"):
            large_table.execute("DEALLOCATE ALL")
            large_table.execute(f"SET plan_cache_mode = {mode}")
            # In "auto" the sixth execution may turn to the generic plan.
            for _ in range(7 if mode == "auto" else 1):
                with large_table.transaction(force_rollback=True):
                    row = large_table.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", given, prepare=True).fetchone()
                assert row is not None
                if offences := scans(row[0][0]["Plan"]):
                    found[name, mode] = offences
    assert found == {}


# ── what cannot be read ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_undecodable_payloads_go_back_once_then_die_and_do_not_wedge_the_queue(
    queue: Queue, connection: Row, drain: Callable[..., Awaitable[Runner]], migrated_database: str
) -> None:
    note = register_note()
    deep = '{"number":' + "[" * 1_500 + "]" * 1_500 + "}"
    for payload in ('{"number": 1e5000}', deep, '{"number": "no number"}', '{"number": 1, "a": 1e5000}'):
        connection.execute("INSERT INTO pgqueue.task (type, payload, status) VALUES ('note', %s, 'ready')", (payload,))
    good = queue.enqueue(note(number=5))
    settings = Settings(poll_interval="50ms", undecodable_delay="100ms")  # type: ignore[arg-type]
    ids = [row[0] for row in connection.execute("SELECT id FROM pgqueue.task WHERE id <> %s ORDER BY id", (good.id,)).fetchall()]
    await drain(settings=settings)
    await eventually(lambda: connection.execute("SELECT count(*) FROM pgqueue.task WHERE maturity_at > now()").fetchone() == (0,))
    await drain(settings=settings)
    assert good.status() is Status.SUCCEEDED
    records = [queue.get(id) for id in ids]
    assert [record.status for record in records if record is not None] == [Status.DEAD] * 4
    for id in ids:
        assert [attempt.error_type for attempt in queue.attempts(id)] == ["pgqueue.errors.PayloadError"] * 2


async def test_a_validator_that_raises_whatever_it_likes_costs_only_its_own_task(
    queue: Queue, drain: Callable[..., Awaitable[Runner]], connection: Row
) -> None:
    from pydantic import field_validator

    @task
    class Picky(Task):
        number: int = 0

        @field_validator("number")
        @classmethod
        def refuse(cls, value: int) -> int:
            if value == 13:
                raise SystemExit("unlucky")
            return value

        async def run(self) -> None: ...

    connection.execute(
        """INSERT INTO pgqueue.task (type, payload, status, options) VALUES ('picky', '{"number": 13}', 'ready', '{"undecodable": true}')"""
    )
    good = queue.enqueue(Picky(number=1))
    await drain(concurrency=1)
    assert good.status() is Status.SUCCEEDED
    [(error,)] = connection.execute("SELECT error FROM pgqueue.dead_task").fetchall()
    assert error.endswith("SystemExit: unlucky")


def test_statements_carry_no_comments_to_the_server() -> None:
    assert "--" not in Statements("pgqueue").claim.text
