"""What an attempt comes to, and what is kept of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import (
    AsyncQueue,
    Cancel,
    Ignore,
    Queue,
    Retry,
    RetryIn,
    Runner,
    Snooze,
    Status,
    Task,
    TaskHandle,
    TaskNotFound,
    task,
)
from pgqueue.executor import DELAY_SECONDS_MAX, FLOOR_AFTER_TRIES, FLOOR_SECONDS
from pgqueue.settings import Settings
from tests.conftest import eventually

Drain = Callable[..., Awaitable[Runner]]
Row = psycopg.Connection[Any]
SOON = timedelta(milliseconds=1)


async def run_until_ended(drain: Drain, *handles: TaskHandle[Any]) -> None:
    """Drain, and again for what was to be retried, until these have ended."""
    deadline = time.monotonic() + 15
    while any(handle.status() in (Status.READY, Status.SCHEDULED, Status.RUNNING) for handle in handles):
        assert time.monotonic() < deadline, [handle.status() for handle in handles]
        await drain()


def waiting_seconds(connection: Row) -> float:
    """How far ahead the only task's maturity lies."""
    row = connection.execute("SELECT extract(epoch FROM maturity_at - clock_timestamp())::float8 FROM pgqueue.task").fetchone()
    assert row is not None
    return float(row[0])


# ── next_try ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_next_try_reads_its_tries_and_the_error_and_three_retries_are_four_attempts(queue: Queue, drain: Drain) -> None:
    seen: list[tuple[int, str]] = []

    @task
    class Flaky(Task):
        async def run(self) -> None:
            raise OSError(f"attempt {self.context.attempt}")

        def next_try(self) -> timedelta | None:
            seen.append((self.tries, str(self.context.error)))
            return SOON if self.tries < 3 else None

    handle = queue.enqueue(Flaky())
    await run_until_ended(drain, handle)
    assert seen == [(0, "attempt 1"), (1, "attempt 2"), (2, "attempt 3"), (3, "attempt 4")]
    record = queue.get(handle)
    assert record is not None
    assert (record.status, record.attempt, record.reason) == (Status.DEAD, 4, "OSError: attempt 4")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "ValueError: no"),
        (timedelta(seconds=-1), "ValueError: no"),
        (timedelta.min, "ValueError: no"),
        (5, "ValueError: no (next_try returned 5, not a timedelta or None)"),
        ("soon", "ValueError: no (next_try returned 'soon', not a timedelta or None)"),
        (RuntimeError("oops"), "ValueError: no (and its retry decision raised RuntimeError)"),
        (SystemExit(1), "ValueError: no (and its retry decision raised SystemExit)"),
    ],
)
async def test_a_next_try_that_stops_or_makes_no_sense_or_raises_lets_the_task_die(
    answer: Any, reason: str, queue: Queue, drain: Drain
) -> None:
    @task
    class Failing(Task):
        async def run(self) -> None:
            raise ValueError("no")

        def next_try(self) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

    handle = queue.enqueue(Failing())
    await drain()
    record = queue.get(handle)
    assert record is not None
    assert (record.status, record.reason) == (Status.DEAD, reason)


async def test_zero_tries_again_at_once_with_a_floor_after_ten_in_a_row(queue: Queue, drain: Drain, connection: Row) -> None:
    runs: list[int] = []

    @task
    class Eager(Task):
        async def run(self) -> None:
            runs.append(self.context.attempt)
            raise ValueError

        def next_try(self) -> timedelta | None:
            return timedelta(0)

    queue.enqueue(Eager())
    await drain()
    assert runs == list(range(1, FLOOR_AFTER_TRIES + 1))
    assert 0 < waiting_seconds(connection) <= FLOOR_SECONDS


async def test_a_delay_of_millions_of_years_is_cut_to_a_century(queue: Queue, drain: Drain, connection: Row) -> None:
    @task
    class Patient(Task):
        async def run(self) -> None:
            raise ValueError

        def next_try(self) -> timedelta | None:
            return timedelta.max

    queue.enqueue(Patient())
    await drain()
    assert abs(waiting_seconds(connection) - DELAY_SECONDS_MAX) < 60


async def test_a_short_retry_is_not_left_waiting_for_the_next_poll(queue: Queue, migrated_database: str) -> None:
    ran_at: list[float] = []

    @task(retry=Retry(max_attempts=5, backoff="fixed", initial=timedelta(milliseconds=50), jitter=0))
    class Quick(Task):
        async def run(self) -> None:
            ran_at.append(time.monotonic())
            raise ValueError

    settings = Settings(poll_interval="30s")  # type: ignore[arg-type]
    handle = queue.enqueue(Quick())
    async with Runner(AsyncQueue(migrated_database, settings=settings)):
        await eventually(lambda: handle.status() is Status.DEAD, timeout=5)
    assert len(ran_at) == 5


# ── Retry ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_policy_stops_at_its_attempts_at_errors_it_is_not_for_and_at_errors_it_excludes(
    queue: Queue, drain: Drain
) -> None:
    @task(retry=Retry(max_attempts=3, initial=SOON, jitter=0, on=OSError, unless=FileNotFoundError))
    class Fetch(Task):
        error: str

        async def run(self) -> None:
            raise {"on": ConnectionError, "unless": FileNotFoundError, "other": KeyError}[self.error]

    handles = {name: queue.enqueue(Fetch(error=name)) for name in ("on", "unless", "other")}
    await run_until_ended(drain, *handles.values())
    assert {name: len(queue.attempts(handle)) for name, handle in handles.items()} == {"on": 3, "unless": 1, "other": 1}


async def test_an_enqueue_may_bring_its_own_policy(queue: Queue, drain: Drain) -> None:
    @task
    class Once(Task):
        async def run(self) -> None:
            raise ValueError

    usual = queue.enqueue(Once())
    stubborn = queue.enqueue(Once(), retry=Retry(max_attempts=3, initial=SOON, jitter=0))
    await run_until_ended(drain, usual, stubborn)
    assert [len(queue.attempts(handle)) for handle in (usual, stubborn)] == [1, 3]


# ── raised on purpose ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_snooze_runs_the_task_again_and_spends_no_attempt(queue: Queue, drain: Drain) -> None:
    attempts: list[int] = []

    @task
    class Sleepy(Task):
        async def run(self) -> None:
            attempts.append(self.context.attempt)
            if len(attempts) < 3:
                raise Snooze(SOON)

    handle = queue.enqueue(Sleepy())
    await run_until_ended(drain, handle)
    assert attempts == [1, 1, 1]
    assert handle.status() is Status.SUCCEEDED
    assert queue.attempts(handle) == []


async def test_ignore_and_cancel_end_the_task_with_their_reasons(queue: Queue, drain: Drain) -> None:
    @task
    class Resigned(Task):
        kind: str

        def run(self) -> None:
            raise (Ignore if self.kind == "ignore" else Cancel)(f"the {self.kind} reason, with \0 and \ud800")

    ignored, cancelled = queue.enqueue(Resigned(kind="ignore")), queue.enqueue(Resigned(kind="cancel"))
    await drain()
    records = [queue.get(handle) for handle in (ignored, cancelled)]
    assert [(record.status, record.reason) for record in records if record is not None] == [
        (Status.IGNORED, "the ignore reason, with \\x00 and \\ud800"),
        (Status.CANCELLED, "the cancel reason, with \\x00 and \\ud800"),
    ]


async def test_retry_in_fails_the_attempt_and_comes_back_whatever_the_policy_says(queue: Queue, drain: Drain) -> None:
    @task
    class Told(Task):
        async def run(self) -> None:
            if self.context.attempt == 1:
                raise RetryIn(SOON, "the other side said so")

    handle = queue.enqueue(Told())
    await run_until_ended(drain, handle)
    assert handle.status() is Status.SUCCEEDED
    [attempt] = queue.attempts(handle)
    assert (attempt.error_type, attempt.error, attempt.traceback) == ("pgqueue.outcomes.RetryIn", "the other side said so", None)


@pytest.mark.parametrize("wrong", [timedelta(seconds=-1), 5, None])
def test_a_snooze_takes_a_timedelta_of_zero_or_more(wrong: Any) -> None:
    with pytest.raises(ValueError, match="takes a timedelta from 0"):
        Snooze(wrong)


# ── what user code may do to a runner ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize(
    "error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, StopIteration, StopAsyncIteration]
)
async def test_whatever_a_task_raises_is_a_failed_attempt_and_the_runner_lives(
    error: type[BaseException], kind: str, queue: Queue, drain: Drain
) -> None:
    if kind == "async":

        @task(name="raising")
        class Raising(Task):
            async def run(self) -> None:
                raise error

    else:

        @task(name="raising")
        class RaisingInThread(Task):
            def run(self) -> None:
                raise error

    @task
    class Fine(Task):
        async def run(self) -> None: ...

    bad, good = queue.enqueue_by_name("raising"), queue.enqueue(Fine())
    runner = await drain(concurrency=1)
    assert (bad.status(), good.status()) == (Status.DEAD, Status.SUCCEEDED)
    assert (runner.stats().processed, runner.stats().failed) == (2, 1)


async def test_what_a_thread_that_a_task_started_raises_through_its_future_does_not_wedge_the_slot(
    queue: Queue, drain: Drain
) -> None:
    """A GeneratorExit that comes out of a future closes the coroutines around it instead of unwinding them."""

    def leave() -> None:
        raise GeneratorExit("from a thread")

    @task
    class Threading(Task):
        async def run(self) -> None:
            await asyncio.to_thread(leave)

    handle = queue.enqueue(Threading())
    await drain(concurrency=1)
    assert handle.status() is Status.DEAD
    assert queue.attempts(handle)[0].error_type == "GeneratorExit"


async def test_an_exception_whose_str_raises_is_stored_by_its_type(queue: Queue, drain: Drain) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @task
    class Speechless(Task):
        async def run(self) -> None:
            raise Mute

    handle = queue.enqueue(Speechless())
    await drain()
    [attempt] = queue.attempts(handle)
    assert attempt.error_type.endswith("Mute")
    assert attempt.error == "(its str() raised RuntimeError)"
    assert handle.status() is Status.DEAD


async def test_errors_of_any_size_and_with_any_character_are_stored(queue: Queue, drain: Drain) -> None:
    @task
    class Loud(Task):
        text: int

        async def run(self) -> None:
            raise ValueError(["x" * 10_000_000, "nul \0 here", "half \ud83d pair", "emoji 🦉"][self.text])

    handles = [queue.enqueue(Loud(text=number)) for number in range(4)]
    await drain()
    errors = [queue.attempts(handle)[0].error for handle in handles]
    assert [errors[0][:3], *errors[1:]] == ["xxx", "nul \\x00 here", "half \\ud83d pair", "emoji 🦉"]
    assert len(errors[0]) <= 10_000
    assert all(handle.status() is Status.DEAD for handle in handles)


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_stored_traceback_begins_where_the_authors_code_begins(kind: str, queue: Queue, drain: Drain) -> None:
    def inner() -> None:
        raise ValueError("deep")

    if kind == "async":

        @task(name="broken")
        class Broken(Task):
            async def run(self) -> None:
                inner()

    else:

        @task(name="broken")
        class BrokenInThread(Task):
            def run(self) -> None:
                try:
                    inner()
                except ValueError as error:
                    raise KeyError("outer") from error

    handle = queue.enqueue_by_name("broken")
    await drain()
    trace = queue.attempts(handle)[0].traceback
    assert trace is not None
    assert "in inner" in trace
    assert "pgqueue/executor.py" not in trace
    assert "pgqueue/threads.py" not in trace
    assert trace.splitlines()[1].strip().startswith(f'File "{__file__}"')


# ── results ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_result_that_cannot_be_stored_is_a_failure_that_says_why(queue: Queue, drain: Drain) -> None:
    results = {"no json": object(), "too large": "x" * 2 * 1024 * 1024, "nul": "a\0b", "nan": float("nan"), "surrogate": "\ud800"}

    @task
    class Give(Task):
        what: str

        async def run(self) -> Any:
            return results[self.what]

    handles = {what: queue.enqueue(Give(what=what)) for what in results}
    await drain()
    assert {handle.status() for handle in handles.values()} == {Status.DEAD}
    errors = {what: queue.attempts(handle)[0].error for what, handle in handles.items()}
    assert "2,097,154 bytes" in errors["too large"]
    assert "NUL" in errors["nul"]
    assert all("the result of give" in error for error in errors.values()), errors


async def test_a_result_is_checked_against_what_the_task_promises(queue: Queue, drain: Drain) -> None:
    @task
    class Count(Task[int]):
        text: str

        async def run(self) -> Any:
            return self.text

    good, bad = queue.enqueue(Count(text="5")), queue.enqueue(Count(text="five"))
    await drain()
    assert good.result(timeout=1) == 5
    assert bad.status() is Status.DEAD
    assert "is not what Task[...] promises" in queue.attempts(bad)[0].error


async def test_a_sync_run_that_returns_a_coroutine_is_told_to_be_async(queue: Queue, drain: Drain) -> None:
    @task
    class Confused(Task):
        def run(self) -> Any:
            return asyncio.sleep(0)

    handle = queue.enqueue(Confused())
    await drain()
    assert "write `async def run`" in queue.attempts(handle)[0].error


async def test_without_history_nothing_is_kept_of_a_success(queue: Queue, drain: Drain, connection: Row) -> None:
    @task(history=False)
    class Fleeting(Task):
        fails: bool = False

        async def run(self) -> None:
            if self.fails:
                raise ValueError("kept all the same")

    fine, failing = queue.enqueue(Fleeting()), queue.enqueue(Fleeting(fails=True))
    await drain()
    assert connection.execute("SELECT count(*) FROM pgqueue.history").fetchone() == (0,)
    assert queue.get(fine) is None
    with pytest.raises(TaskNotFound):
        fine.result(timeout=1)
    assert failing.status() is Status.DEAD


async def test_a_task_not_started_by_its_expiry_is_cancelled_with_that_reason(
    queue: Queue, drain: Drain, connection: Row
) -> None:
    ran: list[int] = []

    @task
    class Perishable(Task):
        async def run(self) -> None:
            ran.append(1)

    handle = queue.enqueue(Perishable(), expires=timedelta(milliseconds=1))
    await eventually(lambda: connection.execute("SELECT expires_at < clock_timestamp() FROM pgqueue.task").fetchone() == (True,))
    await drain()
    record = queue.get(handle)
    assert record is not None
    assert (record.status, record.reason, ran) == (Status.CANCELLED, "expired before it was started", [])


# ── timeouts ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_async_task_is_cancelled_at_its_timeout_and_may_clean_up(queue: Queue, drain: Drain) -> None:
    cleaned: list[str] = []

    @task(timeout=timedelta(milliseconds=50))
    class Slow(Task):
        async def run(self) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                cleaned.append("up")

    handle = queue.enqueue(Slow())
    await drain()
    [attempt] = queue.attempts(handle)
    assert (attempt.error_type, attempt.error) == ("TimeoutError", "it did not end within its timeout of 0.05 s")
    assert attempt.traceback is not None
    assert "in run" in attempt.traceback
    assert (handle.status(), cleaned) == (Status.DEAD, ["up"])


async def test_a_thread_is_told_at_its_timeout_and_fenced_off(queue: Queue, drain: Drain) -> None:
    told: list[bool] = []

    @task(timeout=timedelta(milliseconds=50), retry=Retry(max_attempts=2, initial=SOON, jitter=0))
    class Slow(Task[str]):
        def run(self) -> str:
            if self.context.attempt == 2:
                return "second"
            deadline = time.monotonic() + 5
            while not self.context.cancelled and time.monotonic() < deadline:
                time.sleep(0.005)
            told.append(self.context.cancelled)
            return "first, too late"

    handle = queue.enqueue(Slow())
    await run_until_ended(drain, handle)
    assert handle.result(timeout=1) == "second"
    await eventually(lambda: told == [True])
    assert [attempt.error_type for attempt in queue.attempts(handle)] == ["TimeoutError"]


async def test_an_enqueue_may_bring_its_own_timeout(queue: Queue, drain: Drain) -> None:
    @task(timeout=timedelta(hours=1))
    class Slow(Task):
        async def run(self) -> None:
            await asyncio.sleep(60)

    handle = queue.enqueue(Slow(), timeout=timedelta(milliseconds=20))
    await drain()
    assert handle.status() is Status.DEAD


async def test_a_timeout_of_the_tasks_own_is_an_ordinary_error(queue: Queue, drain: Drain) -> None:
    @task(timeout=timedelta(hours=1))
    class Impatient(Task):
        async def run(self) -> None:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)

    handle = queue.enqueue(Impatient())
    await drain()
    assert queue.attempts(handle)[0].error == ""


# ── what is written down ────────────────────────────────────────────────────────────────────────────────────────────


async def test_attempts_and_dead_rows_say_what_happened_when_and_to_whom(queue: Queue, drain: Drain, connection: Row) -> None:
    @task(retry=Retry(max_attempts=2, initial=SOON, jitter=0), tags=["a", "b"])
    class Failing(Task):
        number: int

        async def run(self) -> None:
            raise LookupError(f"attempt {self.context.attempt}")

    handle = queue.enqueue(Failing(number=7), priority=5, headers={"trace": "1"})
    await run_until_ended(drain, handle)
    first, second = queue.attempts(handle)
    assert (first.attempt, first.error_type, first.error) == (1, "LookupError", "attempt 1")
    assert (second.attempt, second.error) == (2, "attempt 2")
    for attempt in (first, second):
        assert attempt.started_at is not None
        assert attempt.started_at <= attempt.finished_at
        assert attempt.runner_id is not None
        assert attempt.traceback is not None
        assert "raise LookupError" in attempt.traceback
    row = connection.execute(
        "SELECT payload, priority, attempt, tags, headers, error, started_at <= finished_at, created_at <= started_at FROM pgqueue.dead_task"
    ).fetchall()
    assert row == [({"number": 7}, 5, 2, ["a", "b"], {"trace": "1"}, "LookupError: attempt 2", True, True)]
    claims = connection.execute("SELECT count(DISTINCT claim_id), count(*) FROM pgqueue.attempt").fetchone()
    assert claims == (2, 2)


async def test_a_unique_key_is_kept_over_a_retry_and_freed_by_death(queue: Queue, drain: Drain) -> None:
    @task(unique=True, retry=Retry(max_attempts=2, backoff="fixed", initial=timedelta(milliseconds=300), jitter=0))
    class Only(Task):
        async def run(self) -> None:
            raise ValueError

    first = queue.enqueue(Only())
    await drain()
    assert first.status() is Status.SCHEDULED
    again = queue.enqueue(Only())
    assert (again.created, again.id) == (False, first.id)
    await run_until_ended(drain, first)
    assert first.status() is Status.DEAD
    assert queue.enqueue(Only()).created
