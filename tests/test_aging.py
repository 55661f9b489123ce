"""Aging: a task gains a step of priority for each so long that it has waited, and nobody writes to its row."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, ConfigurationError, Queue, QueueRecord, Runner, Settings, Task, task
from pgqueue.aging import PRIORITIES_LIMIT, REACH_MAX, REACH_MIN, Agings, Reach, by_age, by_priority
from pgqueue.board import Board
from pgqueue.completer import Completer, Settlement
from pgqueue.context import Claimed
from pgqueue.database import Parameters, connection_parameters
from pgqueue.lane import Closing, Lane
from pgqueue.link import Link
from pgqueue.outcomes import RETURNED, Outcome
from pgqueue.prefetch import Prefetch
from pgqueue.scan import HeadScan
from pgqueue.slots import Slots
from pgqueue.statements import statements
from pgqueue.strangers import Strangers
from pgqueue.watermark import PRIORITIES_MAX, WHOLE, QueueWatermarks
from tests.conftest import eventually
from tests.test_lanes import locking, trusted

SQL = statements("pgqueue")
MINUTE = timedelta(minutes=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
Row = psycopg.Connection[Any]


@dataclass
class Taker:
    """A lane and how it claims: each of its batches is gone when the next is taken."""

    lane: Lane
    link: Link
    agings: Agings
    form: str
    watermarks: QueueWatermarks = field(default_factory=QueueWatermarks)

    async def take(self, limit: int) -> list[Claimed]:
        if self.form == "leased":
            return await self.lane.claim("default", limit)
        opened = await self.lane.open("default", limit, [])
        tasks = [] if opened.batch is None else list(opened.batch.tasks)
        await self.lane.turn(opened, Closing(discarded=[Settlement(one, RETURNED, False) for one in tasks]), None)
        return tasks

    async def numbers(self, limit: int) -> list[int]:
        return numbers(await self.take(limit))

    def age(self, aging: timedelta | None) -> None:
        self.agings.learn([QueueRecord("default", aging, None, True)])


@asynccontextmanager
async def taker(dsn: str, form: str, aging: timedelta | None) -> AsyncIterator[Taker]:
    link, agings, watermarks = Link(connection_parameters(dsn), name="test", deadline_seconds=10), Agings(), QueueWatermarks()
    lane = Lane(
        SQL, link, runner_id=uuid.uuid4(), types=["note"], watermarks=watermarks, agings=agings, patience_seconds=60.0
    )  # fmt: skip
    made = Taker(lane, link, agings, form, watermarks)
    made.age(aging)
    try:
        yield made
    finally:
        await link.drop()


forms = pytest.mark.parametrize("form", ["leased", "locked"])


def insert(connection: Row, *rows: tuple[int, int, timedelta]) -> None:
    """Ready tasks: number, priority, and how long after the start they matured."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO pgqueue.task (type, status, priority, maturity_at, payload)"
            " VALUES ('note', 'ready', %s, %s, jsonb_build_object('number', %s::int))",
            [(priority, START + after, number) for number, priority, after in rows],
        )


def numbers(batch: list[Claimed]) -> list[int]:
    return [json.loads(claimed.payload)["number"] for claimed in batch]


def claimed(priority: int, after: timedelta, *, queue: str = "default", id: str | None = None) -> Claimed:
    at = START + after
    return Claimed(queue, "claim", id or str(uuid.uuid4()), "note", 1, priority, at, at, "{}", None, None)


# ── the order ───────────────────────────────────────────────────────────────────────────────────────────────────────


@forms
async def test_without_aging_whatever_has_a_higher_priority_goes_first_however_long_the_others_wait(
    form: str, migrated_database: str, connection: Row
) -> None:
    insert(connection, (1, 99, timedelta(0)), (2, 100, timedelta(days=300)))
    async with taker(migrated_database, form, None) as one:
        assert await one.numbers(1) == [2]
        assert await one.numbers(1) == [1]


@forms
@pytest.mark.parametrize(("later", "first"), [(-1, "high"), (0, "high"), (1, "low")])
async def test_a_task_overtakes_exactly_when_it_has_waited_a_step_longer_for_each_priority_that_it_is_lower(
    form: str, later: int, first: str, migrated_database: str, connection: Row
) -> None:
    insert(connection, (1, 90, timedelta(0)), (2, 100, 10 * MINUTE + timedelta(microseconds=later)))
    async with taker(migrated_database, form, MINUTE) as one:
        assert await one.numbers(1) == ([1] if first == "low" else [2])


@forms
async def test_any_mix_is_taken_in_the_order_of_the_key_whatever_the_size_of_the_batches(
    form: str, migrated_database: str, connection: Row
) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    priorities = [chance.randint(-32_767, 32_767) for _ in range(PRIORITIES_MAX + 20)] + [100, 101, 102]
    rows = [(number, chance.choice(priorities), timedelta(seconds=chance.randrange(10**6))) for number in range(600)]
    insert(connection, *rows)
    aging = timedelta(seconds=chance.choice([1, 10, 10**3]))
    async with taker(migrated_database, form, aging) as one:
        taken: list[int] = []
        while batch := await one.numbers(chance.randint(1, 40)):
            taken += batch
    expected = sorted(rows, key=lambda row: (row[2] - row[1] * aging, -row[1]))
    keys = {row[0]: (row[2] - row[1] * aging, -row[1]) for row in rows}
    assert [keys[number] for number in taken] == [keys[row[0]] for row in expected]
    assert sorted(taken) == list(range(600))


@forms
async def test_a_priority_not_seen_before_is_found_beneath_one_that_never_runs_dry(
    form: str, migrated_database: str, connection: Row
) -> None:
    insert(connection, *((number, 100, timedelta(hours=1, seconds=number)) for number in range(500)))
    async with taker(migrated_database, form, MINUTE) as one:
        assert await one.numbers(10) == list(range(10))
        insert(connection, *((900 + number, 60, timedelta(hours=2)) for number in range(200)), (999, 50, timedelta(0)))
        assert await one.numbers(2) == [999, 10]


@forms
async def test_the_farthest_priorities_and_the_longest_aging_overflow_nothing(
    form: str, migrated_database: str, connection: Row
) -> None:
    insert(connection, (1, -32_767, timedelta(0)), (2, 32_767, timedelta(0)), (3, 0, timedelta(0)))
    connection.execute("UPDATE pgqueue.task SET maturity_at = '0002-01-01Z' WHERE priority < 0")
    connection.execute("UPDATE pgqueue.task SET maturity_at = '9998-12-31Z' WHERE priority > 0")
    async with taker(migrated_database, form, timedelta(days=3_650)) as one:
        assert await one.numbers(10) == [2, 3, 1]


@forms
async def test_turning_aging_on_and_off_loses_no_task(form: str, migrated_database: str, connection: Row) -> None:
    insert(connection, *((number, 98 + number % 3, timedelta(seconds=number)) for number in range(300)))
    async with taker(migrated_database, form, None) as one:
        taken = await one.numbers(30)
        assert {number % 3 for number in taken} == {2}
        one.age(timedelta(seconds=5))
        taken += await one.numbers(40)
        assert {number % 3 for number in taken[30:]} == {0, 1}
        one.age(None)
        while batch := await one.numbers(30):
            taken += batch
    assert sorted(taken) == list(range(300))


@forms
async def test_a_claim_takes_no_type_that_its_runner_does_not_know(form: str, migrated_database: str, connection: Row) -> None:
    insert(connection, (1, 100, timedelta(0)), (2, 50, timedelta(0)))
    connection.execute("UPDATE pgqueue.task SET type = 'newer' WHERE priority = 100")
    async with taker(migrated_database, form, MINUTE) as one:
        assert await one.numbers(5) == [2]
        assert await one.numbers(5) == []


def test_the_keys_of_python_agree_with_what_aging_means() -> None:
    low, high = claimed(90, timedelta(0)), claimed(100, timedelta(minutes=9, seconds=59))
    assert by_priority(high) < by_priority(low)
    assert by_age(MINUTE, high) < by_age(MINUTE, low)
    assert by_age(timedelta(seconds=59), low) < by_age(timedelta(seconds=59), high)


def test_a_claim_that_came_back_short_looks_farther_up_to_a_limit_and_a_full_one_less_far() -> None:
    reach = Reach()
    assert reach.of(10) == 10 * REACH_MIN
    for _ in range(10):
        reach.found(3, 10)
    assert reach.of(10) == 10 * REACH_MAX
    for _ in range(10):
        reach.found(10, 10)
    assert reach.of(10) == 10 * REACH_MIN


@pytest.mark.parametrize("name", ["claim_aged", "lock_aged"])
def test_a_claim_reads_some_pages_for_each_candidate_and_not_the_queue_also_without_statistics(
    name: str, connection: Row
) -> None:
    connection.execute("ALTER TABLE pgqueue.task SET (autovacuum_enabled = off)")
    insert(connection, *((number, 90 + number % 5, timedelta(seconds=number)) for number in range(20_000)))
    limit, reach = 100, 200
    parameters = {
        "queue": "default", "types": ["note"], "runner_id": uuid.uuid4(), "claim_id": uuid.uuid4(), "leased_types": [],
        "limit": limit, "reach": reach, "aging": MINUTE, "priorities": PRIORITIES_LIMIT, **WHOLE._asdict(),
    }  # fmt: skip
    for mode in ("force_custom_plan", "force_generic_plan"):
        connection.execute(f"SET plan_cache_mode = {mode}")
        with connection.transaction(force_rollback=True):
            text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {getattr(SQL, name).text}"
            row = connection.execute(text, Parameters(parameters), prepare=True).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        # A walk of the queue's part of the index for each task would be 150 pages and more, a look-up is about four.
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 5 * reach + 40 * limit, mode


# ── nobody writes, nobody shares ────────────────────────────────────────────────────────────────────────────────────


@forms
async def test_the_rows_that_wait_are_neither_changed_nor_left_locked(form: str, migrated_database: str, connection: Row) -> None:
    insert(connection, *((number, 90 + number % 20, timedelta(seconds=number)) for number in range(400)))
    rows = "SELECT id, xmin::text, xmax::text, ctid::text FROM pgqueue.task WHERE status = 'ready'"
    before = {row[0]: row for row in connection.execute(rows)}
    async with taker(migrated_database, form, MINUTE) as one:
        for _ in range(5):
            assert len(await one.take(20)) == 20
    after = connection.execute(rows).fetchall()
    assert len(after) == 300
    assert [row for row in after if row != before[row[0]]] == []


async def test_what_others_have_locked_is_passed_by_also_where_it_is_more_than_was_looked_at(
    migrated_database: str, connection: Row
) -> None:
    insert(connection, *((number, 100, timedelta(seconds=number)) for number in range(120)))
    with connection.transaction():
        connection.execute(
            "SELECT id FROM pgqueue.task WHERE maturity_at < %s FOR UPDATE", (START + timedelta(seconds=100),)
        ).fetchall()
        async with taker(migrated_database, "leased", MINUTE) as one:
            found = [await one.numbers(5) for _ in range(6)]
    assert next(batch for batch in found if batch) == [100, 101, 102, 103, 104]


async def test_four_concurrent_claimers_share_no_task_and_stay_close_to_the_order(
    migrated_database: str, connection: Row
) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance, lanes, limit = random.Random(seed), 4, 25
    rows = [(number, 90 + chance.randrange(20), timedelta(seconds=chance.randrange(3_000))) for number in range(2_000)]
    insert(connection, *rows)
    taken: list[int] = []

    async def take_all(one: Taker) -> None:
        misses = 0
        while misses < 3:
            batch = await one.numbers(limit)
            taken.extend(batch)
            misses = 0 if batch else misses + 1

    async with AsyncExitStack() as stack:
        takers = [await stack.enter_async_context(taker(migrated_database, "leased", MINUTE)) for _ in range(lanes)]
        await asyncio.gather(*(take_all(one) for one in takers))
    assert sorted(taken) == list(range(2_000))
    place = {row[0]: n for n, row in enumerate(sorted(rows, key=lambda row: (row[2] - row[1] * MINUTE, -row[1])))}
    assert max(abs(place[number] - n) for n, number in enumerate(taken)) <= 3 * lanes * limit


async def test_two_runners_that_lock_run_each_task_once_and_the_old_before_the_new(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    ran: list[int] = []

    @task(name="note")
    class Note(Task):
        number: int

        async def run(self) -> None:
            ran.append(self.number)

    count = 3_000
    queue.configure("default", aging=timedelta(seconds=1))
    async with locking(migrated_database, settings) as one, locking(migrated_database, settings) as other:
        for runner in (one, other):
            trusted(runner)
            assert runner._running()._agings.of("default") == timedelta(seconds=1)
        with connection.transaction():  # the numbers are the order: by steps of a second, over five priorities
            insert(connection, *((n, 100 + n % 5, timedelta(seconds=n // 5 + n % 5)) for n in range(count)))
        await eventually(lambda: len(ran) >= count, timeout=20)
    assert Counter(ran) == Counter(range(count))
    assert connection.execute("SELECT count(*) FROM pgqueue.history").fetchone() == (count,)
    assert sum(abs(n - number) for n, number in enumerate(ran)) / count < count / 6  # 1,000 apart on average, had it no order


# ── scans and slots ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_scan_finds_behind_the_watermarks_comes_in_the_order_of_the_queue(
    migrated_database: str, connection: Row
) -> None:
    async with taker(migrated_database, "leased", MINUTE) as one:
        insert(connection, (1, 100, timedelta(days=1)), (2, 90, timedelta(days=1)))
        assert await one.numbers(5) == [1, 2]
        insert(connection, (3, 100, timedelta(hours=1)), (4, 90, timedelta(0)))
        found: list[Claimed] = []
        strangers = Strangers(
            SQL, one.link, types=["note"], delay=MINUTE, watermarks=one.watermarks, on_ready=lambda queue: None
        )  # fmt: skip
        scan = HeadScan(
            SQL,
            one.link,
            runner_id=uuid.uuid4(),
            types=["note"],
            watermarks=one.watermarks,
            agings=one.agings,
            queues=lambda: ["default"],
            strangers=strangers,
            room=lambda: 10,
            on_claimed=found.extend,
            on_ready=lambda queue: None,
        )
        await scan.scan("default")
    assert numbers(found) == [4, 3]


async def test_strangers_of_a_lower_priority_are_passed_by_while_a_higher_one_has_tasks(
    migrated_database: str, connection: Row
) -> None:
    insert(connection, *((number, 100, timedelta(seconds=number)) for number in range(20)))
    insert(connection, *((number, 50, timedelta(seconds=number)) for number in range(100, 200)))
    connection.execute("UPDATE pgqueue.task SET type = 'newer' WHERE priority = 50")
    insert(connection, (999, 50, timedelta(hours=2)))
    async with taker(migrated_database, "leased", MINUTE) as one:
        assert await one.numbers(5) == [0, 1, 2, 3, 4]
        strangers = Strangers(
            SQL, one.link, types=["note"], delay=MINUTE, watermarks=one.watermarks, on_ready=lambda queue: None
        )  # fmt: skip
        await strangers.look_ahead("default")
        assert one.watermarks["default"].segments().starts[-50][0] == START + timedelta(hours=2)
        assert await one.numbers(20) == [*range(5, 20), 999]


async def test_a_later_batch_overtakes_in_the_buffer_by_its_own_queue_s_order_and_moves_no_other_queue() -> None:
    started: list[str] = []

    class Stub:
        def begin(self, attempt: Any) -> None:
            started.append(attempt.claimed.id)
            attempt.outcome = RETURNED

        def escaped(self, attempt: Any, error: BaseException) -> Outcome:
            raise error

    class Collect(Completer):
        def __init__(self) -> None: ...

        def add(self, settlement: Settlement) -> None: ...

    agings = Agings()
    agings.learn([QueueRecord("aged", MINUTE, None, True)])
    slots = Slots(
        concurrency=1, executor=Stub(), completer=Collect(), prefetch=Prefetch(concurrency=1, limit=10), services=None, board=Board.private(1), order=agings.order, on_room=lambda: None  # type: ignore[arg-type]
    )  # fmt: skip
    slots.offer(
        [claimed(100, timedelta(hours=1), queue="aged", id="new"), claimed(100, timedelta(hours=2), queue="aged", id="newest")]
    )
    slots.offer([claimed(1, timedelta(0), queue="strict", id="low"), claimed(0, timedelta(0), queue="strict", id="lowest")])
    slots.offer([claimed(90, timedelta(0), queue="aged", id="old")])
    slots.offer([claimed(200, timedelta(hours=3), queue="strict", id="high")])
    await slots.idle()
    assert started == ["old", "new", "high", "low", "newest", "lowest"]


# ── setting it ──────────────────────────────────────────────────────────────────────────────────────────────────────

which = pytest.mark.parametrize("queues", [None, ["default"]], ids=["all queues", "named queues"])


class Stream:
    """Tasks of priority 100, each of which enqueues the next, and one of priority 90 that waits."""

    def __init__(self, queue: Queue, *, width: int) -> None:
        self.ran: list[tuple[str, datetime]] = []
        self.stopped = False
        stream = self

        @task(priority=100)
        class Busy(Task):
            async def run(self) -> None:
                stream.ran.append(("busy", self.context.scheduled_at))
                if not stream.stopped:
                    await self.context.queue.enqueue(Busy())

        @task(priority=90)
        class Humble(Task):
            async def run(self) -> None:
                stream.ran.append(("humble", self.context.scheduled_at))

        queue.enqueue_many([Busy() for _ in range(width)])
        queue.enqueue(Humble())

    @property
    def has_run_the_humble(self) -> bool:
        return any(name == "humble" for name, _ in self.ran)


@which
async def test_under_a_stream_of_higher_tasks_one_that_is_ten_steps_lower_waits_for_nothing_enqueued_ten_steps_later(
    queues: list[str] | None, queue: Queue, migrated_database: str, settings: Settings
) -> None:
    step = timedelta(milliseconds=40)
    queue.configure("default", aging=step)
    stream = Stream(queue, width=20)
    async with Runner(AsyncQueue(migrated_database, settings=settings), queues=queues, concurrency=2):
        await eventually(lambda: stream.has_run_the_humble, timeout=30)
        stream.stopped = True
    place = [name for name, _ in stream.ran].index("humble")
    bound = stream.ran[place][1] + 10 * step
    assert place >= 20
    assert [maturity_at for _, maturity_at in stream.ran[:place] if maturity_at > bound] == []


@which
async def test_a_runner_follows_a_change_while_it_works(
    queues: list[str] | None, queue: Queue, migrated_database: str, settings: Settings
) -> None:
    stream = Stream(queue, width=2_000)  # more than a runner ever holds: there is always one that waits
    async with Runner(AsyncQueue(migrated_database, settings=settings), queues=queues, concurrency=2) as runner:
        await eventually(lambda: len(stream.ran) >= 100, timeout=30)
        assert not stream.has_run_the_humble
        queue.configure("default", aging=timedelta(microseconds=1))
        await eventually(lambda: stream.has_run_the_humble)
        queue.configure("default", aging=None)
        await eventually(lambda: runner._running()._agings.of("default") is None)
        stream.stopped = True


def test_configuring_sets_what_is_given_and_leaves_the_rest(queue: Queue, connection: Row) -> None:
    assert queue.configure("mail", aging=MINUTE) == QueueRecord("mail", MINUTE, None, False)
    connection.execute("UPDATE pgqueue.queue SET rate_limit = '5/s', max_concurrency = 3, paused_at = '2026-01-01Z'")
    assert queue.configure("mail", aging=2 * MINUTE) == QueueRecord("mail", 2 * MINUTE, START, False)
    assert queue.configure("mail", aging=None) == QueueRecord("mail", None, START, False)
    rows = connection.execute("SELECT name, rate_limit, max_concurrency, aging FROM pgqueue.queue").fetchall()
    assert rows == [("mail", "5/s", 3, None)]


async def test_queues_are_those_with_tasks_and_those_with_settings(async_queue: AsyncQueue, connection: Row) -> None:
    connection.execute("INSERT INTO pgqueue.task (queue, type) VALUES ('busy', 'x'), ('both', 'x'), ('both', 'x')")
    for name in ("both", "quiet"):
        await async_queue.configure(name, aging=MINUTE)
    assert await async_queue.queues() == [
        QueueRecord("both", MINUTE, None, True),
        QueueRecord("busy", None, None, True),
        QueueRecord("quiet", MINUTE, None, False),
    ]


@pytest.mark.parametrize(
    "aging", [timedelta(0), -MINUTE, 60, 1.5, "1m", True, timedelta(days=3_650, microseconds=1), timedelta.max, [], b"1m"]
)
def test_an_aging_that_is_none_is_refused(aging: Any, queue: Queue, connection: Row) -> None:
    with pytest.raises(ConfigurationError, match="aging takes"):
        queue.configure("default", aging=aging)
    assert connection.execute("SELECT count(*) FROM pgqueue.queue").fetchone() == (0,)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", "a\nb", "\ud800", None, 5, b"default"])
def test_a_name_that_no_queue_can_have_is_refused(name: Any, queue: Queue) -> None:
    with pytest.raises(ConfigurationError, match="queue"):
        queue.configure(name, aging=MINUTE)


def test_setting_nothing_or_something_unknown_is_refused(queue: Queue) -> None:
    with pytest.raises(ConfigurationError, match="nothing to set; it takes aging"):
        queue.configure("default")
    with pytest.raises(ConfigurationError, match="no option 'ageing'; it takes aging"):
        queue.configure("default", ageing=MINUTE)  # type: ignore[call-arg]


@pytest.mark.parametrize("aging", ["0", "-1 min"])
def test_the_database_refuses_what_is_no_aging_too(aging: str, connection: Row) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("INSERT INTO pgqueue.queue (name, aging) VALUES ('default', %s)", (aging,))


def test_more_than_ten_years_written_by_hand_counts_as_ten(queue: Queue, connection: Row) -> None:
    connection.execute("INSERT INTO pgqueue.queue (name, aging) VALUES ('default', '100000000 years')")
    assert queue.queues() == [QueueRecord("default", timedelta(days=3_650), None, False)]
