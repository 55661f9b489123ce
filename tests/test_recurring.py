"""Schedules: written down from code, fired once for each slot, by whichever scheduler comes first."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import Field

from pgqueue import AsyncQueue, DatabaseUnavailable, PgQueueError, Queue, Runner, Scheduler, SchemaError, Settings, Task, task
from pgqueue.registry import registry
from pgqueue.schedules import CATCH_UP_MAX, SKIPPED_ROWS_MAX, Fired
from tests.conftest import eventually

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
Connection = psycopg.Connection[Any]
Make = Callable[..., Scheduler]


@pytest.fixture
def make(migrated_database: str, settings: Settings) -> Make:
    """`make(app="other", complete=True)`: a scheduler of the test's database, not started."""

    def make(*, app: str = "test", **options: Any) -> Scheduler:
        own = settings.model_copy(update={"app": app})
        return Scheduler(AsyncQueue(migrated_database, settings=own), settings=own, **options)

    return make


def declare(name: str = "report", **options: Any) -> type[Task[Any]]:
    """A recurring task type, in place of what was declared by that name."""
    registry._by_fold.pop(name, None)

    class Report(Task):
        day: str = "monday"

        def run(self) -> None: ...

    return task(name=name, **options)(Report)


def one(connection: Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0] if len(row) == 1 else row


def schedule(connection: Connection, columns: str, name: str = "report", app: str = "test") -> Any:
    return one(connection, f"SELECT {columns} FROM pgqueue.schedule WHERE name = %s AND app = %s", name, app)


def slots(connection: Connection, name: str = "report") -> list[tuple[Any, ...]]:
    """slot_at, outcome, reason, task_id; oldest first."""
    return connection.execute(
        "SELECT slot_at, outcome, schedule_slot.reason, task_id FROM pgqueue.schedule_slot"
        " JOIN pgqueue.schedule ON schedule.id = schedule_id WHERE name = %s ORDER BY slot_at",
        (name,),
    ).fetchall()


def task_count(connection: Connection, type_name: str = "report") -> int:
    count: int = one(connection, "SELECT count(*) FROM pgqueue.task WHERE type = %s", type_name)
    return count


def add(connection: Connection, name: str, **columns: Any) -> None:
    """A schedule put in by hand, due now unless it says otherwise."""
    values = {
        "app": "hand",
        "source": "runtime",
        "type": name,
        "fingerprint": "",
        "next_run_at": datetime.now(UTC) - timedelta(seconds=1),
    }
    values |= {"name": name} | ({} if columns.keys() & {"cron", "rrule"} else {"frequency": DAY}) | columns
    names, holes = ", ".join(values), ", ".join(["%s"] * len(values))
    connection.execute(f"INSERT INTO pgqueue.schedule ({names}) VALUES ({holes})", list(values.values()))


async def rounds(connection: Connection) -> None:
    """Until a scheduler has looked at all that is due now: a second schedule that came due later has fired.

    The first may be fired early in its round; the second one's round comes after all of it.
    """
    for _ in range(2):
        name = f"marker-{uuid.uuid4()}"
        connection.execute(
            "INSERT INTO pgqueue.schedule (app, name, type, source, fingerprint, frequency, next_run_at)"
            " VALUES ('marker', %s, 'marker', 'runtime', '', '1 day', clock_timestamp())",
            (name,),
        )
        await eventually(lambda name=name: slots(connection, name))  # type: ignore[misc]  # bound on purpose


def is_fired(connection: Connection, count: int = 1, name: str = "report") -> Callable[[], bool]:
    return lambda: schedule(connection, "sum(fired_count)", name) == count


# ── from code to rows ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_frequency_fires_at_once_when_it_is_first_registered(make: Make, connection: Connection):
    declare(frequency=HOUR, priority=7, queue="slow", tags=["b", "a"], expires=timedelta(minutes=5))
    async with make():
        await eventually(is_fired(connection))
    row = one(
        connection,
        "SELECT status::text, priority, queue, tags, payload, headers, options, unique_key, expires_at - maturity_at,"
        " maturity_at BETWEEN now() - interval '1 minute' AND now() FROM pgqueue.task",
    )
    [(slot_at, outcome, reason, task_id)] = slots(connection)
    headers = {"schedule": "report", "slot": slot_at.astimezone(UTC).isoformat()}
    assert row == ("ready", 7, "slow", ["a", "b"], {"day": "monday"}, headers, None, None, timedelta(minutes=5), True)
    assert (outcome, reason, task_id) == ("fired", None, one(connection, "SELECT id FROM pgqueue.task"))
    assert schedule(connection, "next_run_at") == slot_at + HOUR
    assert schedule(connection, "fired_count, skipped_count, last_run_at >= next_run_at - frequency") == (1, 0, True)


async def test_a_restart_neither_repeats_nor_moves_anything(make: Make, connection: Connection):
    declare(frequency=HOUR)
    async with make():
        await eventually(is_fired(connection))
    before = schedule(connection, "id, next_run_at, last_run_at, updated_at, fired_count")
    for _ in range(2):
        async with make():
            await rounds(connection)
    assert schedule(connection, "id, next_run_at, last_run_at, updated_at, fired_count") == before
    assert task_count(connection) == 1


async def test_a_slot_missed_while_no_scheduler_ran_fires_after_the_restart(make: Make, connection: Connection):
    declare(frequency=HOUR)
    async with make():
        await eventually(is_fired(connection))
    connection.execute("UPDATE pgqueue.schedule SET next_run_at = now() - interval '10 minutes'")
    async with make():
        await eventually(is_fired(connection, 2))


async def test_a_changed_frequency_counts_from_the_last_run(make: Make, connection: Connection):
    declare(frequency=DAY)
    async with make():
        await eventually(is_fired(connection))
    declare(frequency=12 * HOUR)
    async with make():
        await rounds(connection)
    assert schedule(connection, "next_run_at - last_run_at, fired_count") == (12 * HOUR, 1)


async def test_a_changed_frequency_that_has_passed_already_fires_at_once_and_once(make: Make, connection: Connection):
    declare(frequency=DAY, missed="all")
    async with make():
        await eventually(is_fired(connection))
    connection.execute("UPDATE pgqueue.schedule SET last_run_at = now() - interval '10 hours'")
    declare(frequency=HOUR, missed="all")
    async with make():
        await eventually(is_fired(connection, 2))
    assert schedule(connection, "fired_count, skipped_count") == (2, 0)


async def test_a_frequency_that_becomes_a_cron_waits_for_its_next_instant(make: Make, connection: Connection):
    declare(frequency=HOUR)
    async with make():
        await eventually(is_fired(connection))
    declare(cron="0 3 * * *", timezone="Europe/Berlin")
    async with make():
        await rounds(connection)
    assert schedule(connection, "frequency, cron, timezone, fired_count, next_run_at > now()") == (
        None,
        "0 3 * * *",
        "Europe/Berlin",
        1,
        True,
    )


async def test_other_changes_of_a_definition_move_no_slot(make: Make, connection: Connection):
    declare(frequency=HOUR)
    async with make():
        await eventually(is_fired(connection))
    before = schedule(connection, "next_run_at")
    declare(frequency=HOUR, priority=5, queue="other", missed="all", unique=True)
    async with make():
        await rounds(connection)
    assert schedule(connection, "next_run_at, queue, missed, (options ->> 'priority')::int, fired_count") == (
        before,
        "other",
        "all",
        5,
        1,
    )
    assert len(schedule(connection, "options ->> 'unique_key'")) == 64


async def test_what_vanished_from_code_is_disabled_only_by_a_program_that_loaded_everything(make: Make, connection: Connection):
    declare(frequency=HOUR)
    declare("kept", frequency=HOUR)
    async with make(complete=True):
        await eventually(is_fired(connection))
    registry._by_fold.pop("report")
    async with make(complete=False):
        assert schedule(connection, "enabled") is True
    async with make(complete=True):
        assert schedule(connection, "enabled") is False
        assert schedule(connection, "enabled", "kept") is True


async def test_what_reappears_is_enabled_and_owes_nothing_for_the_time_in_between(make: Make, connection: Connection):
    declare(frequency=HOUR, missed="all")
    async with make(complete=True):
        await eventually(is_fired(connection))
    connection.execute(
        "UPDATE pgqueue.schedule SET enabled = false,"
        " next_run_at = now() - interval '3 days', last_run_at = now() - interval '4 days'"
    )
    async with make(complete=True):
        await eventually(is_fired(connection, 2))
    assert schedule(connection, "enabled, fired_count, skipped_count, next_run_at > now()") == (True, 2, 0, True)


async def test_two_apps_do_not_touch_each_other(make: Make, connection: Connection):
    declare(frequency=HOUR)
    async with make(app="one", complete=True):
        await eventually(lambda: task_count(connection) == 1)
    registry._by_fold.clear()
    declare("other", frequency=HOUR)
    async with make(app="two", complete=True):
        await eventually(lambda: task_count(connection, "other") == 1)
    assert connection.execute("SELECT app, name, enabled FROM pgqueue.schedule ORDER BY app").fetchall() == [
        ("one", "report", True),
        ("two", "other", True),
    ]


async def test_schedules_made_at_runtime_are_never_disabled(make: Make, connection: Connection):
    add(connection, "by-hand", app="test", next_run_at=datetime.now(UTC) + DAY)
    async with make(complete=True):
        await rounds(connection)
    assert schedule(connection, "enabled, fired_count", "by-hand") == (True, 0)


async def test_a_payload_that_cannot_be_stored_is_refused_at_the_start(make: Make):
    @task(frequency=HOUR)
    class Odd(Task):
        value: Any = Field(default_factory=object)

        def run(self) -> None: ...

    with pytest.raises(PgQueueError, match="odd"):
        await make().start()


# ── firing ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_cron_fires_at_its_instant_and_not_before(make: Make, connection: Connection):
    declare(cron="0 3 * * *", timezone="Europe/Berlin")
    async with make():
        await rounds(connection)
        assert task_count(connection) == 0
        due_at, is_next = schedule(connection, "next_run_at, next_run_at > now() AND next_run_at <= now() + interval '25 hours'")
        assert is_next
        connection.execute(
            "UPDATE pgqueue.schedule SET next_run_at = date_trunc('day', now(), 'Europe/Berlin') - interval '21 hours'"
        )
        await eventually(is_fired(connection))
    assert slots(connection)[-1][0] < due_at
    assert schedule(connection, "next_run_at") == due_at


async def test_a_slot_of_an_unfinished_unique_task_is_skipped_and_counted(make: Make, queue: Queue, connection: Connection):
    holder = queue.enqueue(declare(frequency=HOUR, unique=True)())
    heard: list[Fired] = []
    async with make(observer=heard.append):
        await eventually(lambda: heard)
        assert schedule(connection, "fired_count, skipped_count, last_run_at") == (0, 1, None)
        assert [row[1:] for row in slots(connection)] == [("skipped", "unfinished task", None)]
        holder.cancel()
        connection.execute("UPDATE pgqueue.schedule SET next_run_at = now() WHERE name = 'report'")
        await eventually(is_fired(connection))
    assert [(fired.task_id is None, fired.reason) for fired in heard] == [(True, "unfinished task"), (False, None)]


async def test_several_slots_of_a_unique_task_in_one_firing_make_one_task(make: Make, connection: Connection):
    declare(frequency=HOUR, unique=True, missed="all")
    async with make():
        await eventually(is_fired(connection))
    connection.execute("DELETE FROM pgqueue.task")
    connection.execute("UPDATE pgqueue.schedule SET next_run_at = next_run_at - interval '3 hours 30 minutes'")
    async with make():
        await eventually(is_fired(connection, 2))
    assert schedule(connection, "skipped_count") == 2
    assert task_count(connection) == 1


@pytest.mark.parametrize("commits", [True, False])
async def test_a_key_held_by_an_open_transaction_puts_the_firing_off_and_keeps_nobody_else_waiting(
    make: Make, connection: Connection, migrated_database: str, settings: Settings, commits: bool
):
    holder_class = declare(frequency=HOUR, unique=True)
    with psycopg.connect(migrated_database) as other, Queue(migrated_database, settings=settings) as queue:
        queue.bound(other).enqueue(holder_class())
        async with make():
            await rounds(connection)
            assert schedule(connection, "fired_count, skipped_count") == (0, 0)
            assert slots(connection) == []
            other.commit() if commits else other.rollback()
            await eventually(lambda: slots(connection))
    assert schedule(connection, "fired_count, skipped_count") == ((0, 1) if commits else (1, 0))
    assert task_count(connection) == 1


@pytest.mark.parametrize(("missed", "fired", "skipped"), [("last", 1, 9), ("skip", 0, 10), ("all", 10, 0)])
async def test_missed_slots_are_caught_up_as_the_policy_says(
    make: Make, connection: Connection, missed: str, fired: int, skipped: int
):
    began_at = datetime.now(UTC) - 9 * HOUR - timedelta(minutes=30)
    add(connection, "report", app="test", frequency=HOUR, missed=missed, next_run_at=began_at)
    async with make():
        await eventually(lambda: len(slots(connection)) == 10)
    assert [row[0] for row in slots(connection)] == [began_at + number * HOUR for number in range(10)]
    assert [row[1] for row in slots(connection)] == ["skipped"] * skipped + ["fired"] * fired
    assert {row[2] for row in slots(connection) if row[1] == "skipped"} <= {"missed"}
    assert schedule(connection, "fired_count, skipped_count, next_run_at") == (fired, skipped, began_at + 10 * HOUR)
    assert task_count(connection) == fired


async def test_a_million_missed_slots_are_all_counted_and_a_few_written_down(make: Make, connection: Connection):
    began_at = datetime.now(UTC) - timedelta(seconds=1_000_000.5)
    add(connection, "report", app="test", frequency=timedelta(seconds=1), missed="all", next_run_at=began_at)
    async with make():
        await eventually(lambda: schedule(connection, "fired_count >= 1000"))
    rows = slots(connection)
    written = [row[0] for row in rows if row[2] == "missed"]
    fired_count, skipped_count, next_run_at = schedule(connection, "fired_count, skipped_count, next_run_at")
    assert fired_count + skipped_count == (next_run_at - began_at) / timedelta(seconds=1)
    assert len(written) == SKIPPED_ROWS_MAX
    assert written[0] == began_at
    assert written[-1] == rows[SKIPPED_ROWS_MAX][0] - timedelta(seconds=1)
    assert task_count(connection) == fired_count >= CATCH_UP_MAX


async def test_a_slot_is_decided_once_even_when_the_schedule_is_set_back(make: Make, connection: Connection):
    declare(frequency=HOUR, missed="all")
    async with make():
        await eventually(is_fired(connection))
        connection.execute("UPDATE pgqueue.schedule SET next_run_at = next_run_at - interval '3 hours' WHERE name = 'report'")
        await eventually(is_fired(connection, 3))
        await rounds(connection)
    assert schedule(connection, "fired_count, skipped_count, next_run_at > now()") == (3, 0, True)
    assert task_count(connection) == len(slots(connection)) == 3


async def test_any_scheduler_fires_the_schedules_of_types_it_does_not_know(make: Make, connection: Connection):
    add(
        connection, "elsewhere", queue="far", payload=Jsonb({"a": 1}), options=Jsonb({"priority": 3, "overrides": {"timeout": 5}})
    )
    async with make():
        await eventually(lambda: task_count(connection, "elsewhere"))
    assert one(connection, "SELECT queue, payload, priority, options FROM pgqueue.task") == ("far", {"a": 1}, 3, {"timeout": 5})


async def test_what_is_paused_disabled_or_never_due_is_left_alone(make: Make, connection: Connection):
    add(connection, "paused", paused_at=datetime.now(UTC))
    add(connection, "disabled", enabled=False)
    add(connection, "idle", next_run_at=None)
    async with make():
        await rounds(connection)
    assert one(connection, "SELECT count(*) FROM pgqueue.task WHERE type <> 'marker'") == 0


async def test_broken_rows_are_said_once_and_stop_nobody(make: Make, connection: Connection, caplog: pytest.LogCaptureFixture):
    add(connection, "bad-cron", cron="every tuesday")
    add(connection, "bad-rrule", rrule="FREQ=SOMETIMES")
    add(connection, "bad-zone", cron="0 0 * * *", timezone="Mars/Olympus")
    add(connection, "too-often", frequency=timedelta(microseconds=1))
    add(connection, "bad-options", options=Jsonb({"priority": "urgent"}))
    add(connection, "bad-payload", options=Jsonb({"unique_key": "00"}))
    add(connection, "too-early", next_run_at=datetime(20, 1, 1, tzinfo=UTC))
    connection.execute("UPDATE pgqueue.schedule SET frequency = '170000000 years' WHERE name = 'too-often'")
    with caplog.at_level(logging.WARNING, "pgqueue.scheduler"):
        async with make():
            for _ in range(3):
                await rounds(connection)
    complaints = [record.getMessage() for record in caplog.records]
    assert len(complaints) == 7, complaints
    assert one(connection, "SELECT count(*) FROM pgqueue.task WHERE type <> 'marker'") == 0


async def test_more_schedules_than_a_page_holds_fire_in_one_round(
    make: Make, connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pgqueue.recurring.DUE_BATCH", 3)
    at = datetime.now(UTC) - timedelta(seconds=1)
    for number in range(20):
        add(connection, f"one-{number}", next_run_at=at, **({"cron": "bad"} if number % 3 == 0 else {}))
    async with make():
        await eventually(lambda: one(connection, "SELECT count(*) FROM pgqueue.task") == 13)


async def test_a_firing_and_somebody_who_changes_the_row_do_not_wait_for_each_other(
    make: Make, connection: Connection, migrated_database: str
):
    add(connection, "report", app="test")
    with psycopg.connect(migrated_database) as other:
        other.execute("UPDATE pgqueue.schedule SET queue = 'moved'")
        async with make():
            await rounds(connection)
            assert task_count(connection) == 0
            other.commit()
            await eventually(is_fired(connection))
    assert one(connection, "SELECT queue FROM pgqueue.task WHERE type = 'report'") == "moved"


async def test_an_observer_that_fails_stops_nothing(make: Make, connection: Connection):
    def fail(fired: Fired) -> None:
        raise ZeroDivisionError

    declare(frequency=timedelta(milliseconds=100))
    async with make(observer=fail):
        await eventually(lambda: schedule(connection, "fired_count >= 3"))


async def test_a_fired_task_runs(make: Make, connection: Connection, drain: Callable[..., Awaitable[Runner]]):
    declare(frequency=HOUR, unique=True)
    async with make():
        await eventually(is_fired(connection))
    await drain()
    assert one(connection, "SELECT status::text, headers ->> 'schedule' FROM pgqueue.history") == ("succeeded", "report")


# ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_outage_loses_no_slot_and_repeats_none(make: Make, connection: Connection):
    declare(frequency=timedelta(milliseconds=100), missed="all")
    declare("single", frequency=timedelta(milliseconds=100), unique=True)
    async with make(), make():
        await eventually(lambda: schedule(connection, "fired_count >= 1"))
        for count in range(5, 45, 5):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name IN ('pgqueue scheduler', 'pgqueue heart')"
            )
            await eventually(lambda count=count: schedule(connection, f"fired_count >= {count}"))  # type: ignore[misc]  # bound on purpose
    for name in ("report", "single"):
        check_slots(connection, name)
    assert schedule(connection, "skipped_count") == 0


def check_slots(connection: Connection, name: str) -> None:
    """Each slot of a frequency was decided once, without a hole, the counters say so, and each that fired has its task."""
    rows = slots(connection, name)
    frequency, next_run_at, fired_count, skipped_count = schedule(
        connection, "frequency, next_run_at, fired_count, skipped_count", name
    )
    assert [row[0] for row in rows] == [next_run_at - (len(rows) - number) * frequency for number in range(len(rows))]
    fired = [row[3] for row in rows if row[1] == "fired"]
    assert (fired_count, skipped_count) == (len(fired), len(rows) - len(fired))
    tasks = connection.execute("SELECT id FROM pgqueue.task WHERE headers ->> 'schedule' = %s ORDER BY id", (name,)).fetchall()
    assert [row[0] for row in tasks] == sorted(fired)


async def test_a_lone_scheduler_beats_and_rescues(make: Make, connection: Connection):
    connection.execute(
        "INSERT INTO pgqueue.task (type, status, runner_id, claim_id, claimed_at, attempt)"
        " VALUES ('stranded', 'running', gen_random_uuid(), gen_random_uuid(), now() - interval '1 hour', 1)"
    )
    async with make(name="alone"):
        await eventually(lambda: one(connection, "SELECT status::text FROM pgqueue.task") == "ready")
        assert one(connection, "SELECT name, kind, app FROM pgqueue.runner") == ("alone", "scheduler", "test")
    assert one(connection, "SELECT count(*) FROM pgqueue.runner") == 0


async def test_a_scheduler_starts_once_and_stops_as_often_as_one_likes(make: Make):
    scheduler = make()
    await scheduler.stop()
    async with scheduler:
        with pytest.raises(PgQueueError, match="once"):
            await scheduler.start()
        await scheduler.stop()
        await scheduler.stop()
    await scheduler.wait()


async def test_a_database_without_the_schema_is_refused(empty_database: str, settings: Settings):
    with pytest.raises(SchemaError):
        await Scheduler(AsyncQueue(empty_database, settings=settings)).start()


async def test_a_server_that_is_not_there_is_waited_for_and_no_longer_than_said(
    settings: Settings, caplog: pytest.LogCaptureFixture
):
    patient = settings.model_copy(update={"connect_timeout": timedelta(seconds=0.3)})
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        await Scheduler(AsyncQueue("postgresql://nobody@127.0.0.1:1/nothing", settings=patient)).start()
    assert "waiting for PostgreSQL" in caplog.text
