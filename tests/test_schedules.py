"""Schedules made and changed at run time: what is stored, what is refused, and that schedulers obey it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import (
    AsyncQueue,
    ConfigurationError,
    PayloadError,
    Queue,
    Retry,
    Schedule,
    ScheduleNotFound,
    Scheduler,
    Settings,
    Task,
    Unique,
    UnknownTask,
    registry,
    task,
)
from pgqueue import schedule_operations as operations
from pgqueue.database import run, single
from pgqueue.schedule_requests import Name
from tests.conftest import eventually

Connection = psycopg.Connection[Any]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def report() -> type[Task[Any]]:
    @task(priority=7, queue="slow", tags=["nightly"])
    class Report(Task):
        day: str = "monday"
        pages: int = 1

        def run(self) -> None: ...

    return Report


@pytest.fixture
def scheduler(migrated_database: str, settings: Settings) -> Callable[..., Scheduler]:
    return lambda **options: Scheduler(AsyncQueue(migrated_database, settings=settings), settings=settings, **options)


def slots(connection: Connection, name: str) -> list[tuple[Any, ...]]:
    """slot_at, outcome, reason; oldest first, without what was triggered."""
    return connection.execute(
        "SELECT slot_at, outcome, schedule_slot.reason FROM pgqueue.schedule_slot JOIN pgqueue.schedule ON schedule.id = schedule_id"
        " WHERE name = %s AND NOT is_trigger ORDER BY slot_at",
        (name,),
    ).fetchall()


def make_due(connection: Connection, name: str, ago: timedelta) -> datetime:
    """Set a schedule's next slot back, and say to when."""
    row = connection.execute(
        "UPDATE pgqueue.schedule SET next_run_at = now() - %s WHERE name = %s RETURNING next_run_at", (ago, name)
    ).fetchone()
    assert row is not None
    result: datetime = row[0]
    return result


def found(queue: Queue, name: str = "one") -> Schedule:
    schedule = queue.schedules.get(name)
    assert schedule is not None
    return schedule


# ── making and changing ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_schedule_holds_what_it_was_made_of_and_is_found_by_its_name(queue: Queue, report: type[Task[Any]]):
    made = queue.schedules.create(
        "one", report(day="friday"), cron="0 3 * * *", timezone="Europe/Berlin", start_at=FUTURE, end_at=FUTURE + 30 * DAY,
        max_runs=3, missed="skip", queue="quick", priority=9, expires=HOUR, timeout=timedelta(seconds=5),
        retry=Retry(max_attempts=2), unique=Unique(by=("day",)), tags=["a"],
    )  # fmt: skip
    assert found(queue) == made
    assert queue.schedules.list().schedules == (made,)
    assert (made.app, made.source, made.type, made.queue) == ("test", "runtime", "report", "quick")
    assert made.payload == {"day": "friday", "pages": 1}
    assert (made.cron, made.timezone, made.missed, made.max_runs) == ("0 3 * * *", "Europe/Berlin", "skip", 3)
    assert (made.start_at, made.end_at, made.enabled) == (FUTURE, FUTURE + 30 * DAY, True)
    assert made.next_run_at == datetime(2100, 1, 1, 2, tzinfo=UTC)
    options = made.options
    assert (options["priority"], options["expires"], options["tags"]) == (9, 3600.0, ["a", "nightly"])
    assert (options["unique_by"], options["overrides"]["timeout"], options["overrides"]["retry"]["max_attempts"]) == (
        ["day"],
        5.0,
        2,
    )
    assert queue.schedules.get("two") is None
    assert made.as_json()["start_at"] == FUTURE.isoformat()


def test_making_one_of_that_name_again_keeps_its_id_and_a_definition_that_is_there_moves_no_slot(
    queue: Queue, report: type[Task[Any]], connection: Connection
):
    first = queue.schedules.create("one", report, {"day": "tuesday"}, frequency=HOUR)
    due_at = make_due(connection, "one", 10 * HOUR)
    connection.execute("UPDATE pgqueue.schedule SET fired_count = 5, last_run_at = now() - interval '10 minutes'")
    queue.schedules.pause("one")
    again = queue.schedules.create("one", "Report", {"day": "sunday"}, frequency="1h", priority=3)
    assert (again.id, again.next_run_at, again.fired_count, again.created_at) == (first.id, due_at, 5, first.created_at)
    assert (again.payload["day"], again.options["priority"], again.paused_at is None) == ("sunday", 3, False)
    faster = queue.schedules.create("one", report, frequency=timedelta(minutes=30))
    assert faster.last_run_at is not None
    assert faster.next_run_at == faster.last_run_at + timedelta(minutes=30)
    nightly = queue.schedules.create("one", report, rrule="FREQ=DAILY;BYHOUR=3")
    assert (nightly.id, nightly.frequency, nightly.rrule) == (first.id, None, "FREQ=DAILY;BYHOUR=3")
    assert nightly.next_run_at is not None
    assert nightly.next_run_at.hour == 3


def test_an_update_changes_what_is_given_and_leaves_the_rest(queue: Queue, report: type[Task[Any]], connection: Connection):
    made = queue.schedules.create(
        "one", report(day="friday"), cron="0 3 * * *", timezone="Europe/Berlin", unique=Unique(by=("day",)), end_at=FUTURE,
        max_runs=9, tags=["a"], timeout=HOUR,
    )  # fmt: skip
    update = queue.schedules.update
    later = update("one", cron="0 4 * * *")
    assert (later.id, later.cron, later.timezone, later.end_at) == (made.id, "0 4 * * *", "Europe/Berlin", FUTURE)
    assert later.next_run_at != made.next_run_at
    utc = update("one", timezone="UTC")
    assert (utc.cron, utc.timezone, utc.next_run_at and utc.next_run_at.hour) == ("0 4 * * *", "UTC", 4)
    bare = update("one", end_at=None, max_runs=None, timeout=None, tags=None, queue="other", priority=1, missed="all")
    assert (bare.end_at, bare.max_runs, bare.queue, bare.missed, bare.next_run_at) == (
        None,
        None,
        "other",
        "all",
        utc.next_run_at,
    )
    assert (bare.payload, bare.options) == (
        made.payload,
        {name: made.options[name] for name in ("unique_key", "unique_by")} | {"priority": 1},
    )
    other = update("one", payload={"day": "sunday"})
    assert (other.payload["day"], other.options["unique_by"]) == ("sunday", ["day"])
    assert other.options["unique_key"] != bare.options["unique_key"]
    assert "unique_key" not in update("one", unique=None).options
    assert update("one", rrule="FREQ=DAILY").next_run_at is not None
    connection.execute("UPDATE pgqueue.schedule SET rrule = 'FREQ=SOMETIMES', next_run_at = NULL")
    with pytest.raises(ConfigurationError, match="SOMETIMES"):
        update("one", priority=2)
    mended = update("one", rrule="FREQ=DAILY;BYHOUR=5")
    assert (mended.enabled, mended.next_run_at is None) == (True, False)


def test_what_is_wrong_is_refused_with_the_reason_and_nothing_is_written(
    queue: Queue, report: type[Task[Any]], connection: Connection
):
    class Bare(Task):
        def run(self) -> None: ...

    refused: list[tuple[dict[str, Any], str]] = [
        ({}, "say when"),
        ({"frequency": HOUR, "cron": "* * * * *"}, "both frequency= and cron="),
        ({"frequency": HOUR, "timezone": "UTC"}, "timezone= belongs"),
        ({"frequency": 0}, "outside"),
        ({"cron": "0 0 30 2 *"}, "never comes"),
        ({"rrule": "FREQ=WEEKLY;INTERVAL=2"}, "DTSTART"),
        ({"rrule": "DTSTART:20200101 RRULE:FREQ=DAILY;COUNT=3"}, "never comes: there is no slot after"),
        ({"cron": "0 0 1 1 *", "start_at": FUTURE + DAY, "end_at": FUTURE + 2 * DAY}, "never comes before end_at"),
        ({"frequency": HOUR, "start_at": FUTURE, "end_at": FUTURE}, "not after start_at"),
        ({"frequency": HOUR, "end_at": PAST}, "is in the past"),
        ({"frequency": HOUR, "end_at": datetime(2100, 1, 1)}, "naive"),  # noqa: DTZ001  # the point
        ({"frequency": HOUR, "start_at": "tomorrow"}, "start_at takes an aware datetime"),
        ({"frequency": HOUR, "max_runs": 0}, "max_runs takes a whole number from 1"),
        ({"frequency": HOUR, "max_runs": -1}, "max_runs takes"),
        ({"frequency": HOUR, "max_runs": True}, "max_runs takes"),
        ({"frequency": HOUR, "max_runs": 2**63}, "max_runs takes"),
        ({"frequency": HOUR, "missed": "some"}, "missed takes one of"),
        ({"frequency": HOUR, "queue": ""}, "queue takes a name"),
        ({"frequency": HOUR, "priority": "high"}, "priority takes"),
        ({"frequency": HOUR, "expires": FUTURE}, "expires takes a timedelta"),
        ({"frequency": HOUR, "unique": Unique(by=("nobody",))}, "names 'nobody'"),
        ({"frequency": HOUR, "unique": 5}, "unique takes"),
        ({"frequency": HOUR, "delay": HOUR}, "has no option 'delay'"),
        ({"frequency": HOUR, "app": ""}, "app takes a name"),
    ]
    for options, reason in refused:
        with pytest.raises(ConfigurationError, match=reason):
            queue.schedules.create("one", report, **options)
    for name, target, values, error in [
        ("", report, None, ConfigurationError),
        ("one", Bare, None, ConfigurationError),
        ("one", 5, None, ConfigurationError),
        ("one", report(), {"day": "monday"}, ConfigurationError),
        ("one", report, [1], ConfigurationError),
        ("one", report, {"pages": "many"}, PayloadError),
        ("one", "nobody", None, UnknownTask),
    ]:
        with pytest.raises(error):
            queue.schedules.create(name, target, values, frequency=HOUR)
    assert len(queue.schedules.list()) == 0

    made = queue.schedules.create("one", report, frequency=HOUR)
    for changes, reason in [
        ({}, "nothing to change"),
        ({"timezone": "UTC"}, "timezone= belongs"),
        ({"end_at": PAST}, "is in the past"),
        ({"max_runs": 0}, "max_runs takes"),
        ({"unique": "yes"}, "unique takes"),
        ({"task": report(), "payload": {}}, "a task holds its own"),
        ({"cron": "0 0 30 2 *"}, "never comes"),
    ]:
        with pytest.raises(ConfigurationError, match=reason):
            queue.schedules.update("one", **changes)
    with pytest.raises(PayloadError):
        queue.schedules.update("one", payload={"pages": "many"})
    for limit in (0, 1001, True):
        with pytest.raises(ConfigurationError, match="limit takes"):
            queue.schedules.list(limit=limit)
    with pytest.raises(ConfigurationError, match="no cursor"):
        queue.schedules.list(cursor="x")
    assert found(queue) == made


def test_one_that_is_not_there_is_said_to_be_missing(queue: Queue):
    schedules = queue.schedules
    for verb in (schedules.pause, schedules.resume, schedules.trigger, schedules.slots):
        with pytest.raises(ScheduleNotFound, match="'nobody'"):
            verb("nobody")
    with pytest.raises(ScheduleNotFound):
        schedules.update("nobody", max_runs=1)
    assert schedules.delete("nobody") is False


def test_schedules_are_listed_by_app_and_name_page_by_page(queue: Queue, report: type[Task[Any]]):
    for app, name in [("b", "x"), ("a", "z"), ("a", "y"), ("a", "x")]:
        queue.schedules.create(name, report, frequency=HOUR, app=app)
    names: list[tuple[str, str]] = []
    cursor = None
    for _ in range(2):
        page = queue.schedules.list(limit=2, cursor=cursor)
        names += [(one.app, one.name) for one in page]
        cursor = page.cursor
    assert (names, cursor) == ([("a", "x"), ("a", "y"), ("a", "z"), ("b", "x")], None)
    assert [one.name for one in queue.schedules.list(app="b", type="Report")] == ["x"]
    assert len(queue.schedules.list(type="other")) == 0
    assert queue.schedules.delete("x", app="a") is True
    assert (queue.schedules.get("x", app="a"), queue.schedules.get("x", app="b") is None) == (None, False)


def test_many_programs_that_make_one_schedule_at_once_make_one(
    migrated_database: str, settings: Settings, report: type[Task[Any]]
):
    made: list[Schedule] = []
    barrier = threading.Barrier(4)

    def make() -> None:
        with Queue(migrated_database, settings=settings) as queue:
            barrier.wait(10)
            made.extend(queue.schedules.create("one", report, frequency=HOUR) for _ in range(5))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(made) == 20
    assert len({(one.id, one.next_run_at) for one in made}) == 1


async def test_the_async_client_does_the_same(async_queue: AsyncQueue, report: type[Task[Any]]):
    schedules = async_queue.schedules
    made = await schedules.create("one", report, frequency=HOUR, max_runs=2)
    assert (await schedules.update("one", max_runs=None)).max_runs is None
    assert (await schedules.pause("one")).paused_at is not None
    assert (await schedules.resume("one")).paused_at is None
    handle = await schedules.trigger("one")
    assert (handle.created, handle.type, await handle.status()) == (True, "report", "ready")
    assert [(slot.task_id, slot.is_trigger) for slot in await schedules.slots("one")] == [(handle.id, True)]
    assert [one.id for one in await schedules.list()] == [made.id]
    assert await schedules.delete("one") is True
    assert await schedules.get("one") is None


# ── triggering ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_trigger_enqueues_now_moves_no_slot_and_is_counted_apart(queue: Queue, report: type[Task[Any]], connection: Connection):
    made = queue.schedules.create(
        "one",
        report(day="friday"),
        frequency=HOUR,
        start_at=FUTURE,
        max_runs=1,
        unique=True,
        priority=3,
        timeout=HOUR,
        expires=DAY,
    )
    queue.schedules.pause("one")
    handle, same = queue.schedules.trigger("one"), queue.schedules.trigger("one")
    assert (handle.created, same.created, same.id) == (True, False, handle.id)
    record = queue.get(handle)
    assert record is not None
    assert (record.queue, record.priority, record.payload, record.tags) == (
        "slow",
        3,
        {"day": "friday", "pages": 1},
        ("nightly",),
    )
    assert (record.headers["schedule"], record.headers["trigger"]) == ("one", "true")
    assert connection.execute("SELECT options, expires_at > now() FROM pgqueue.task").fetchone() == ({"timeout": 3600.0}, True)
    skipped, fired = queue.schedules.slots("one")
    assert (fired.outcome, fired.reason, fired.task_id, fired.is_trigger) == ("fired", "triggered", handle.id, True)
    assert (skipped.outcome, skipped.reason, skipped.task_id) == ("skipped", "unfinished task", None)
    after = found(queue)
    assert (after.triggered_count, after.fired_count, after.skipped_count) == (2, 0, 0)
    assert (after.next_run_at, after.last_run_at, after.enabled) == (made.next_run_at, None, True)


def test_a_trigger_or_a_delete_whose_commit_was_unknown_is_done_once(
    queue: Queue, report: type[Task[Any]], connection: Connection
):
    queue.schedules.create("one", report, frequency=HOUR, start_at=FUTURE)
    name, task_id = Name("test", "one"), uuid.uuid4()
    sql = queue._sql
    for repeated in (False, True, True):
        with connection.transaction():
            inserted, _ = run(connection, operations.trigger(sql, name, task_id, repeated=repeated))
        assert (inserted.id, inserted.created) == (task_id, True)
    assert found(queue).triggered_count == len(queue.schedules.slots("one")) == queue.depth() == 1
    assert run(connection, operations.delete(sql, name)) is True
    assert run(connection, operations.delete(sql, name, repeated=True)) is True


def test_a_payload_that_python_cannot_write_as_it_was_is_triggered_and_updated_as_it_is(
    queue: Queue, report: type[Task[Any]], connection: Connection
):
    queue.schedules.create("one", report, frequency=HOUR, start_at=FUTURE)
    connection.execute("""UPDATE pgqueue.schedule SET payload = '{"pages": 1.100, "day": 123456789012345678901234567890.5}'""")
    queue.schedules.update("one", priority=2)
    queue.schedules.trigger("one")
    assert connection.execute("SELECT payload::text FROM pgqueue.task").fetchone() == (
        '{"day": 123456789012345678901234567890.5, "pages": 1.100}',
    )


# ── what schedulers make of it ──────────────────────────────────────────────────────────────────────────────────────────


async def test_bounds_policies_and_pauses_are_obeyed_and_an_end_is_said(
    queue: Queue, report: type[Task[Any]], connection: Connection, scheduler: Callable[..., Scheduler]
):
    create = queue.schedules.create
    create("runs", report, frequency=HOUR, max_runs=3, missed="all")
    create("last", report, frequency=HOUR, max_runs=1)
    create("end", report, frequency=HOUR, end_at=FUTURE, missed="all")
    create("rule", report, rrule="DTSTART:20200101 RRULE:FREQ=DAILY", missed="all")
    create("late", report, frequency=HOUR, start_at=FUTURE)
    create("paused", report, frequency=HOUR)
    create("unique", report, frequency=HOUR, unique=True, max_runs=2, missed="all")
    queue.schedules.pause("paused")
    began = {
        name: make_due(connection, name, timedelta(hours=9, minutes=30)) for name in ("runs", "last", "end", "unique", "late")
    }
    connection.execute("UPDATE pgqueue.schedule SET end_at = now() - interval '7 hours' WHERE name = 'end'")
    # Its last two slots are due; UNTIL cannot be in the past where a schedule is made.
    days = [datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - number * DAY for number in (2, 1)]
    until = f"DTSTART:20200101T000000 RRULE:FREQ=DAILY;UNTIL={days[1]:%Y%m%dT%H%M%S}"
    connection.execute("UPDATE pgqueue.schedule SET rrule = %s, next_run_at = %s WHERE name = 'rule'", (until, days[0]))
    make_due(connection, "paused", HOUR)
    async with scheduler():
        for name in ("runs", "last", "end", "rule"):
            await eventually(lambda name=name: not found(queue, name).enabled)  # type: ignore[misc]  # bound on purpose
        await eventually(lambda: len(slots(connection, "unique")) == 10)
        await eventually(lambda: found(queue, "late").next_run_at == FUTURE)
    ends = {name: found(queue, name) for name in began | {"rule": None, "paused": None}}
    assert [slot[:2] for slot in slots(connection, "runs")] == [(began["runs"] + number * HOUR, "fired") for number in range(3)]
    assert [slot[1] for slot in slots(connection, "last")] == ["skipped"] * 9 + ["fired"]
    assert [slot[:2] for slot in slots(connection, "end")] == [(began["end"] + number * HOUR, "fired") for number in range(3)]
    assert [slot[:2] for slot in slots(connection, "rule")] == [(day, "fired") for day in days]
    assert [slot[1:] for slot in slots(connection, "unique")] == [("fired", None)] + [("skipped", "unfinished task")] * 9
    assert (slots(connection, "late"), slots(connection, "paused")) == ([], [])
    assert {name: (one.ended_reason, one.next_run_at is None) for name, one in ends.items()} == {
        "runs": ("max_runs reached", True),
        "last": ("max_runs reached", True),
        "end": ("end_at reached", True),
        "rule": ("its rrule has no further slot", True),
        "unique": (None, False),
        "late": (None, False),
        "paused": (None, False),
    }
    assert all(one.ended_at is not None for one in ends.values() if not one.enabled)

    # The same definition again stays ended, as a program that makes its schedules when it starts wants it; a wider one goes on.
    assert create("runs", report, frequency=HOUR, max_runs=3, missed="all").ended_reason == "max_runs reached"
    assert create("runs", report, frequency=HOUR, max_runs=2).enabled is False
    wider = queue.schedules.update("runs", max_runs=4)
    assert (wider.enabled, wider.ended_at, wider.ended_reason, wider.fired_count) == (True, None, None, 3)
    assert wider.next_run_at is not None
    assert wider.next_run_at > datetime.now(UTC)
    queue.schedules.resume("paused")
    async with scheduler():
        await eventually(lambda: found(queue, "paused").fired_count == 1)
    assert found(queue, "runs").fired_count == 3


def test_a_firing_that_read_other_bounds_does_nothing(queue: Queue, report: type[Task[Any]], connection: Connection):
    made = queue.schedules.create("one", report, frequency=HOUR, max_runs=2, end_at=FUTURE)
    assert made.next_run_at is not None

    def fire(count: int, *, max_runs: int | None = 2, end_at: datetime | None = FUTURE) -> int:
        """As a scheduler would that read these bounds; how many slots were decided."""
        ats = [made.next_run_at + number * HOUR for number in range(count)]
        call = queue._sql.schedule_fire(
            id=made.id, seen=made.next_run_at, max_runs=max_runs, end_at=end_at, next_run_at=FUTURE, ended_reason=None, fire_ats=ats,
            task_ids=[uuid.uuid4() for _ in ats], headers=["{}" for _ in ats], skip_ats=[], unrecorded_count=0, lock_timeout="500ms",
            channel="pgqueue",
        )  # fmt: skip
        return len(run(connection, single(call)))

    assert (fire(1, max_runs=None), fire(1, max_runs=3), fire(1, end_at=None), fire(1, end_at=FUTURE + DAY), fire(3)) == (0,) * 5
    assert (found(queue), queue.depth()) == (made, 0)
    assert (fire(2), queue.depth()) == (2, 2)
    assert (found(queue).enabled, found(queue).ended_reason) == (False, "max_runs reached")


async def test_what_code_declares_is_paused_and_triggered_here_and_changed_there(
    queue: Queue, connection: Connection, scheduler: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture
):
    @task(rrule="FREQ=DAILY;BYHOUR=3", timezone="Europe/Berlin")
    class Nightly(Task):
        def run(self) -> None: ...

    @task(rrule="DTSTART:20200101 RRULE:FREQ=DAILY;COUNT=3")
    class Over(Task):
        def run(self) -> None: ...

    async with scheduler(complete=True):
        pass
    made, over = found(queue, "nightly"), found(queue, "over")
    assert (made.source, made.rrule, made.timezone, made.enabled) == ("code", "FREQ=DAILY;BYHOUR=3", "Europe/Berlin", True)
    assert (over.enabled, over.next_run_at, over.ended_reason) == (False, None, "its rrule has no further slot")
    for change in (
        lambda: queue.schedules.create("nightly", Nightly, frequency=HOUR),
        lambda: queue.schedules.update("nightly", priority=1),
        lambda: queue.schedules.delete("nightly"),
    ):
        with pytest.raises(ConfigurationError, match="declared in code"):
            change()
    queue.schedules.pause("nightly")
    assert queue.schedules.trigger("nightly").created
    mine = queue.schedules.create("mine", Nightly, frequency=HOUR, start_at=FUTURE)
    registry._by_fold.clear()
    registry.add(Nightly.__task_type__)  # the next deployment knows no Over
    async with scheduler(complete=True):
        pass
    assert (found(queue, "nightly").paused_at is None, found(queue, "nightly").next_run_at) == (False, made.next_run_at)
    assert (found(queue, "over").updated_at, found(queue, "mine")) == (over.updated_at, mine)
    registry._by_fold.clear()
    task(name="mine", frequency=DAY)(type("Mine", (Nightly,), {}))
    with caplog.at_level(logging.WARNING, "pgqueue.scheduler"):
        async with scheduler(complete=True):
            pass
    assert "schedule mine was made at run time" in caplog.text
    assert found(queue, "mine") == mine
    gone = found(queue, "nightly")
    assert (gone.enabled, gone.next_run_at, gone.ended_reason) == (False, None, "no longer declared")
    assert queue.schedules.delete("nightly") is True
