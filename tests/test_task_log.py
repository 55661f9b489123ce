"""What tasks log about themselves: stored, bounded, never in the way, shown live."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

import hypothesis
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pgqueue import AsyncQueue, ConfigurationError, LogRecord, Queue, Retry, Runner, Status, Task, task
from pgqueue.cli.task import app
from pgqueue.context import Claimed
from pgqueue.journal import BATCH_MAX, FLUSH_SECONDS, Journal
from pgqueue.registry import registry
from pgqueue.settings import Settings
from tests.conftest import eventually
from tests.programs import hooked

Drain = Callable[..., Awaitable[Runner]]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def claimed(id: str = "1") -> Claimed:
    return Claimed("default", "c", id, "type", 1, 100, NOW, NOW, "{}", None, False)


def running(one: Claimed) -> bool:
    return True


def ended(one: Claimed) -> bool:
    return False


def said(lines: Sequence[LogRecord]) -> list[tuple[str, str, float | None]]:
    return [(line.level, line.message, line.progress) for line in lines]


# ── the journal ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_lines_wait_for_a_second_for_a_full_batch_or_for_the_end_of_their_attempt() -> None:
    journal = Journal(lines_per_attempt=10_000, characters=100)
    assert not journal.is_due(1e9, ended)
    log = journal.open(claimed())
    assert not journal.is_due(1e9, running)
    assert journal.take(1e9, running) == []
    log.info("one")
    assert not journal.is_due(1e9 + FLUSH_SECONDS / 2, running)
    assert journal.is_due(1e9 + FLUSH_SECONDS, running)
    assert journal.is_due(1e9, ended)
    for _ in range(BATCH_MAX):
        log.info("more")
    assert journal.is_due(1e9, running)
    assert [len(journal.take(1e9, running)) for _ in range(3)] == [BATCH_MAX, 1, 0]
    assert journal.is_empty


def test_what_does_not_fit_is_dropped_and_one_line_says_how_many() -> None:
    journal = Journal(lines_per_attempt=3, characters=10, limit=5)
    first, second = claimed("1"), claimed("2")
    for number in range(6):
        journal.open(first).warning("%d", number)
        journal.open(second).info("x" * 11)
    journal.open(first).report(0.5, "", ())
    lines = journal.take(time.monotonic(), ended)
    assert [line.message for line in lines if line.task_id == "1" and line.progress is None][:3] == ["0", "1", "2"]
    assert [line.message for line in lines if line.task_id == "2"][:2] == ["xxxxxxxxxx… (11 characters)"] * 2
    summaries = [line.message for line in lines if "dropped" in line.message]
    assert [text.split()[0] for text in summaries] == ["3", "4"]
    assert len(lines) == 5 + 1 + 2
    assert journal.is_empty
    journal.put_back(lines)
    assert journal.take(time.monotonic(), ended) == lines


def test_progress_is_stored_ever_more_rarely_and_the_last_report_always() -> None:
    journal, one = Journal(lines_per_attempt=0, characters=100), claimed()
    log, stored, day = journal.open(one), [], 86_400
    for second in range(day):
        log.report(second / day, "now", ())
        if journal.is_due(float(second), running):
            stored += journal.take(float(second), running)
    assert 500 < len(stored) < 1_100
    log.report(1.0, "done", ())
    (last,) = journal.take(float(day), ended)
    assert (last.progress, last.message) == (1.0, "done")


class _Hostile:
    def __str__(self) -> str:
        raise SystemError("no text")


VALUES = st.one_of(st.text(max_size=30), st.integers(), st.just(_Hostile()))


def test_lines_from_a_process_that_do_not_fit_are_summed_up_too() -> None:
    elsewhere, journal = Journal(lines_per_attempt=9, characters=9), Journal(lines_per_attempt=9, characters=9, limit=2)
    for number in range(5):
        elsewhere.open(claimed()).info("%s", number)
    journal.put(elsewhere.take(time.monotonic(), running), True)
    assert journal.is_due(0.0, running)
    messages = [line.message.split(":")[0] for line in journal.take(time.monotonic(), running)]
    assert messages == ["0", "1", "3 more lines were dropped"]


@hypothesis.settings(max_examples=50, deadline=None)
@given(VALUES, st.lists(VALUES, max_size=3))
def test_any_message_becomes_a_line_that_postgresql_can_store(message: Any, arguments: list[Any]) -> None:
    journal = Journal(lines_per_attempt=1, characters=1_000)
    journal.open(claimed()).error(message, *arguments)
    (line,) = journal.take(0.0, running)
    assert "\0" not in line.message
    line.message.encode("utf-8")


def test_messages_are_merged_as_logging_does() -> None:
    journal = Journal(lines_per_attempt=10, characters=1_000)
    log = journal.open(claimed())
    log.info("%s of %d", "two", 3)
    log.info("%(name)s", {"name": "Ada"})
    log.info("100 %")
    log.info({"a": 1})
    assert [line.message for line in journal.take(0.0, running)] == ["two of 3", "Ada", "100 %", "{'a': 1}"]


@pytest.mark.parametrize("wrong", [-0.01, 1.01, math.nan, math.inf, "0.5", None, True, 10**400, [0.5]])
def test_progress_that_is_no_fraction_is_refused(wrong: Any) -> None:
    log = Journal(lines_per_attempt=10, characters=1_000).open(claimed())
    with pytest.raises(ValueError, match=r"context.progress takes a number from 0 to 1, not"):
        log.report(wrong, "", ())
    log.report(Decimal("0.5"), "", ())  # type: ignore[arg-type]


# ── stored ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_tasks_of_every_kind_log_and_a_client_reads_it(queue: Queue, drain: Drain, async_queue: AsyncQueue) -> None:
    @task
    class Async(Task):
        async def run(self) -> None:
            self.context.log.debug("begun %s", "\0\ud800")
            self.context.progress(0.25)
            self.context.progress(0.4, "rendering %d", 7)
            self.context.log.warning("late")

    @task
    class Thread(Task):
        def run(self) -> None:
            threads = [threading.Thread(target=self.context.log.info, args=("from %s", number)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    @task(batch_size=5, retry=Retry(max_attempts=2, initial=timedelta(0)))
    class Batch(Task):
        number: int

        @classmethod
        async def run_many(cls, tasks: Sequence[Self]) -> None:
            for one in tasks:
                one.context.progress(1 / one.context.attempt, "task %s", one.number)
                one.context.log.error("attempt")
            raise LookupError

    registry.add(hooked.LogsInProcess.__task_type__)  # type: ignore[arg-type]
    handles = [queue.enqueue(one) for one in (Async(), Thread(), Batch(number=7), hooked.LogsInProcess(lines=2))]
    await drain()
    told = [said(queue.logs(handle)) for handle in handles]
    assert told[0] == [("debug", "begun \\x00\\ud800", None), ("info", "rendering 7", 0.4), ("warning", "late", None)]
    assert sorted(told[1]) == [("info", f"from {number}", None) for number in range(4)]
    assert told[2] == [
        ("info", "task 7", 1.0), ("error", "attempt", None), ("info", "task 7", 0.5), ("error", "attempt", None),
    ]  # fmt: skip
    assert told[3] == [("info", "line 0", None), ("info", "line 1", None), ("info", "half", 0.5)]
    assert [queue.get(handle).progress for handle in handles] == [0.4, None, 0.5, 0.5]  # type: ignore[union-attr]
    assert [line.attempt for line in queue.logs(handles[2])] == [1, 1, 2, 2]

    lines = queue.logs(handles[2].id)
    assert [line.id for line in lines] == sorted({line.id for line in lines})
    record = queue.get(handles[0])
    assert record is not None
    first = queue.logs(handles[0])[0]
    assert record.created_at < first.logged_at
    assert queue.logs(handles[2], limit=1) == lines[-1:]
    assert await async_queue.logs(handles[2].id, after=lines[0].id, limit=2) == lines[1:3]
    assert await async_queue.logs(handles[2].id, after=lines[-1].id) == []
    assert first.as_json()["logged_at"] == first.logged_at.isoformat()
    for wrong in ({"after": -1}, {"after": True}, {"after": "1"}, {"limit": 0}, {"limit": 1_001}, {"after": 2**63}):
        with pytest.raises(ConfigurationError):
            queue.logs(handles[0], **wrong)  # type: ignore[arg-type]


async def test_a_locked_table_and_a_lost_connection_hold_up_no_task_and_lose_no_line(
    queue: Queue, migrated_database: str, settings: Settings, connection: psycopg.Connection[Any]
) -> None:
    @task
    class Talks(Task):
        async def run(self) -> None:
            for number in range(1_200):
                self.context.log.info("%s", number)

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgqueue upkeep' AND wait_event_type = 'Lock'"
    handle = queue.enqueue(Talks())
    options = settings.model_copy(update={"task_log_lines": 1_100})
    with psycopg.connect(migrated_database) as blocker:
        blocker.execute("LOCK TABLE pgqueue.task_log IN ACCESS EXCLUSIVE MODE")
        async with Runner(AsyncQueue(migrated_database, settings=options)):
            await eventually(lambda: handle.status() is Status.SUCCEEDED)
            await eventually(lambda: connection.execute(waiting).fetchone() == (1,))
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgqueue upkeep'")
            await eventually(lambda: connection.execute(waiting).fetchone() == (1,))
            blocker.rollback()
            rows = connection.execute
            await eventually(lambda: rows("SELECT count(*) FROM pgqueue.task_log").fetchone() == (1_101,))
    last = queue.logs(handle, limit=2)
    assert [line.message.split(":")[0] for line in last] == ["1099", "100 more lines were dropped"]
    assert last[-1].level == "warning"


async def test_a_runner_that_cannot_write_its_last_lines_ends_all_the_same_and_says_so(
    queue: Queue, drain: Drain, connection: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    @task
    class Talks(Task):
        async def run(self) -> None:
            self.context.log.info("never read")

    connection.execute("ALTER TABLE pgqueue.task_log RENAME COLUMN message TO elsewhere")
    handle = queue.enqueue(Talks())
    await drain()
    assert handle.status() is Status.SUCCEEDED
    assert "cannot be written" in caplog.text
    assert "lines that tasks logged are lost" in caplog.text


async def test_lines_and_progress_are_seen_while_the_task_runs(queue: Queue, migrated_database: str, settings: Settings) -> None:
    goes_on, ends = asyncio.Event(), asyncio.Event()

    @task
    class Long(Task):
        async def run(self) -> None:
            self.context.progress(0.4, "rendering\nframe 7")
            await goes_on.wait()
            self.context.log.info("later")
            await ends.wait()
            self.context.log.error("over")

    def shown(*words: str) -> Any:
        return CliRunner().invoke(app, ["show", str(handle.id), "--dsn", migrated_database, *words])

    handle = queue.enqueue(Long())
    async with Runner(AsyncQueue(migrated_database, settings=settings)):
        await eventually(lambda: getattr(queue.get(handle), "progress", None) == 0.4)
        sheet = shown()
        assert sheet.exit_code == 0
        assert "progress  40%" in sheet.output
        assert "info     40% rendering\n    frame 7" in sheet.output
        following = asyncio.create_task(asyncio.to_thread(shown, "--follow", "--lines", "10"))
        goes_on.set()
        await eventually(lambda: len(queue.logs(handle)) == 2)
        ends.set()
        followed = (await following).output
    assert followed.index("rendering") < followed.index("later") < followed.index("over")
    assert followed.count("later") == 1
    assert "succeeded, attempt 1" in followed
    document = shown("--json")
    assert '"progress": 0.4' in document.output
    assert shown("--follow", "--json").exit_code == 2


async def test_a_task_that_is_run_eagerly_logs_where_the_program_does(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    @task
    class Eager(Task):
        def run(self) -> None:
            self.context.log.warning("here")
            self.context.progress(0.5, "half")

    with caplog.at_level("INFO", "pgqueue.task"):
        queue.run_now(Eager())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "eager: here"), ("INFO", "eager: 50% half"),
    ]  # fmt: skip
