"""Hooks, error handlers and middleware: when they are called, with what, and that they change nothing they should not."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

import pgqueue
from pgqueue import AsyncQueue, Cancel, ConfigurationError, Ignore, Queue, Retry, RetryIn, Runner, Snooze, Status, Task, task
from pgqueue.definition import define
from pgqueue.reactions import hooks_by_type
from pgqueue.registry import registry
from pgqueue.settings import Settings
from tests.conftest import eventually
from tests.programs import hooked
from tests.programs.process import runner_process

Drain = Callable[..., Awaitable[Runner]]
KINDS = ("on_start", "on_success", "on_failure", "on_retry", "on_dead")


def noted(events: list[Any], name: str) -> Callable[..., None]:
    """A hook that notes how it was called."""

    def note(task: Task[Any], *arguments: Any) -> None:
        events.append((name, *(type(one).__name__ if isinstance(one, BaseException) else one for one in arguments)))

    return note


def watch(events: list[Any], **options: Any) -> dict[str, Any]:
    return {**{kind: noted(events, kind) for kind in KINDS}, **options}


async def test_each_outcome_calls_its_hooks_in_order_for_async_tasks_threads_and_batches(queue: Queue, drain: Drain) -> None:
    events: list[Any] = []
    wants = {
        "fine": [("on_start",), ("on_success", "fine")],
        "bad": [
            ("on_start",), ("on_failure", "LookupError"), ("on_retry", "LookupError", timedelta(0)),
            ("on_start",), ("on_failure", "LookupError"), ("on_dead", "LookupError"),
        ],
        "again": [("on_start",), ("on_failure", "RetryIn"), ("on_retry", "RetryIn", timedelta(hours=1))],
        "unstorable": [
            ("on_start",), ("on_failure", "PayloadError"), ("on_retry", "PayloadError", timedelta(0)),
            ("on_start",), ("on_failure", "PayloadError"), ("on_dead", "PayloadError"),
        ],
        "snooze": [("on_start",)],
        "ignore": [("on_start",)],
        "cancel": [("on_start",)],
    }  # fmt: skip
    retry = Retry(max_attempts=2, backoff="fixed", initial=timedelta(0))

    def work(what: str) -> Any:
        raised: dict[str, BaseException] = {
            "bad": LookupError("gone"),
            "again": RetryIn(timedelta(hours=1)),
            "snooze": Snooze(timedelta(hours=1)),
            "ignore": Ignore(),
            "cancel": Cancel(),
        }
        if what in raised:
            raise raised[what]
        return object() if what == "unstorable" else what

    @task(retry=retry, **watch(events))
    class Async(Task[Any]):
        what: str

        async def run(self) -> Any:
            return work(self.what)

    @task(retry=retry, **watch(events))
    class Thread(Task[Any]):
        what: str

        def run(self) -> Any:
            return work(self.what)

    @task(batch_size=5, retry=retry, **watch(events))
    class Batch(Task[Any]):
        what: str

        @classmethod
        async def run_many(cls, tasks: Sequence[Self]) -> list[Any]:
            try:
                return [work(one.what) for one in tasks]
            except Exception as error:
                return [error]

    for cls in (Async, Thread, Batch):
        for what, expected in wants.items():
            events.clear()
            queue.enqueue(cls(what=what))
            await drain(concurrency=1)
            assert events == expected, (cls, what)


async def test_own_hooks_lie_inside_those_of_all_types_and_methods_before_options(queue: Queue, drain: Drain) -> None:
    events: list[str] = []

    @pgqueue.on_start
    async def global_start(task: Task[Any]) -> None:
        events.append(f"everybody, attempt {task.context.attempt}")

    @pgqueue.on_success
    @pgqueue.on_success  # twice is once
    def global_success(task: Task[Any], result: Any) -> None:
        events.append(f"everybody {result} on the main thread: {threading.current_thread() is threading.main_thread()}")

    @task(on_start=lambda task: events.append("option"), on_success=[lambda task, result: events.append("option")])
    class Watched(Task[int]):
        async def on_start(self) -> None:
            events.append("method")

        async def on_success(self, result: int) -> None:
            await asyncio.sleep(0)
            events.append(f"method {result} {self.context.runner_id is not None}")

        async def run(self) -> int:
            events.append("run")
            return 7

    assert registry.get("watched").hooks.on_success[0].is_async
    queue.enqueue(Watched())
    await drain()
    before = ["everybody, attempt 1", "method", "option", "run"]
    assert events == [*before, "method 7 True", "option", "everybody 7 on the main thread: False"]


async def test_a_hook_that_raises_hangs_or_will_not_end_changes_no_outcome_and_is_counted(
    queue: Queue, migrated_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    release, called = threading.Event(), []

    async def clings(task: Task[Any], result: Any) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.2)
                return

    def exits(task: Task[Any], result: Any) -> None:
        raise SystemExit(3)

    async def cancels_itself(task: Task[Any], result: Any) -> None:
        raise asyncio.CancelledError

    def completes(task: Task[Any], result: Any) -> None:
        with task.context.transaction():
            called.append("never")

    hooks = [exits, cancels_itself, clings, lambda task, result: release.wait(20), completes]

    @task(
        on_start=lambda task: 1 / 0, on_success=[*hooks, lambda task, result: called.append(result)], timeout=timedelta(seconds=9)
    )
    class Watched(Task[int]):
        def run(self) -> int:
            return 7

    handles = [queue.enqueue(Watched()) for _ in range(2)]
    options = Settings(lease="3s", heartbeat="500ms", poll_interval="50ms", hook_timeout="100ms")  # type: ignore[arg-type]
    async with asyncio.timeout(20), Runner(AsyncQueue(migrated_database, settings=options), drain=True, concurrency=2) as runner:
        await runner.wait()
    release.set()
    assert [handle.result(timeout=0) for handle in handles] == [7, 7]
    assert called == [7, 7]
    assert runner.stats().failed_hooks == 12
    logged = caplog.text
    assert "did not end within 0.1 s (hook_timeout)" in logged
    assert all(name in logged for name in ("exits", "cancels_itself", "clings", "completes", "ZeroDivisionError"))


async def test_hooks_are_called_before_the_outcome_is_written_down_and_a_stop_waits_for_them(
    queue: Queue, migrated_database: str, settings: Settings
) -> None:
    seen: list[Any] = []
    entered, go_on = asyncio.Event(), asyncio.Event()

    @task
    class Watched(Task):
        async def run(self) -> None:
            raise LookupError

        async def on_failure(self, error: BaseException) -> None:
            record = await self.context.queue.get(self.context.task_id)
            seen.append(record.status in (Status.READY, Status.RUNNING))
            entered.set()
            await go_on.wait()

        async def on_dead(self, error: BaseException) -> None:
            seen.append("dead")

    handle = queue.enqueue(Watched())
    async with Runner(AsyncQueue(migrated_database, settings=settings)) as runner:
        await entered.wait()
        stopping = asyncio.create_task(runner.stop(timeout=0))
        await eventually(lambda: runner._engine is not None and runner._engine.slots._closed)
        await asyncio.sleep(0)
        go_on.set()
        await stopping
    assert seen == [True, "dead"]
    assert handle.status() is Status.DEAD


async def test_stopping_while_a_start_hook_runs_gives_the_task_back(
    queue: Queue, migrated_database: str, settings: Settings
) -> None:
    entered = asyncio.Event()

    @task
    class Watched(Task):
        async def on_start(self) -> None:
            entered.set()
            await asyncio.sleep(60)

        async def run(self) -> None:
            raise AssertionError("never")

    handle = queue.enqueue(Watched())
    options = settings.model_copy(update={"hook_timeout": timedelta(seconds=30)})
    async with Runner(AsyncQueue(migrated_database, settings=options)) as runner:
        await entered.wait()
        await runner.stop(timeout=0)
    record = queue.get(handle)
    assert record is not None
    assert (record.status, record.attempt) == (Status.READY, 0)


async def test_error_handlers_get_a_client_of_their_kind_and_are_told_of_unreadable_payloads(
    queue: Queue, drain: Drain, connection: psycopg.Connection[Any]
) -> None:
    seen: list[Any] = []

    @task
    class Alert(Task):
        text: str

        async def run(self) -> None: ...

    @pgqueue.on_error
    async def alert(queue: AsyncQueue, task: Task[Any], error: BaseException) -> None:
        await queue.enqueue(Alert(text=f"{task.context.type}: {type(error).__name__}"), delay=timedelta(hours=1))

    @pgqueue.on_error
    def alert_too(queue: Queue, task: Task[Any], error: BaseException) -> None:
        seen.append((type(queue), repr(task), queue.get(task.context.task_id) is not None))

    @task(on_failure=lambda task, error: seen.append("on_failure"))
    class Strict(Task):
        number: int

        def run(self) -> None:
            raise LookupError

    @task(batch_size=10, on_failure=lambda task, error: seen.append("on_failure"))
    class StrictBatch(Task):
        number: int

        @classmethod
        def run_many(cls, tasks: Sequence[Self]) -> None:
            raise LookupError

    for name in ("strict", "strict-batch"):
        connection.execute("INSERT INTO pgqueue.task (type, payload, status) VALUES (%s, '{}', 'ready')", [name])
    await drain(concurrency=1)
    assert seen == [(Queue, "Strict()", True), (Queue, "StrictBatch()", True)]
    seen.clear()
    queue.enqueue(Strict(number=1))
    queue.enqueue(StrictBatch(number=1))
    await drain(concurrency=1)
    assert seen == ["on_failure", (Queue, "Strict(number=1)", True), "on_failure", (Queue, "StrictBatch(number=1)", True)]
    texts = sorted(record.payload["text"] for record in queue.list(type="alert"))
    assert texts == ["strict-batch: LookupError", "strict-batch: PayloadError", "strict: LookupError", "strict: PayloadError"]


async def test_hooks_of_a_task_in_a_process_run_in_the_runner_with_its_error_and_result(queue: Queue, drain: Drain) -> None:
    events: list[Any] = []
    for cls in (hooked.InProcess, hooked.CompletesInProcess):
        registry.add(define(cls, executor="process", **watch(events, on_start=None)))
    pgqueue.middleware(hooked.twice)
    outcomes = {
        "fine": ("on_success", 42),
        "bad": ("on_failure", "KnownError"),
        "secretive": ("on_failure", "ErrorInProcess"),
        "unreadable": ("on_failure", "ErrorInProcess"),
        "exit": ("on_failure", "ProcessDied"),
    }
    for what in outcomes:
        queue.enqueue(hooked.InProcess(what=what))
    queue.enqueue(hooked.CompletesInProcess())
    await drain(concurrency=1)
    told = [event for event in events if event[0] != "on_dead"]
    assert told == [*outcomes.values(), ("on_success", {"rows": 3})], [one.reason for one in queue.list()]


@pytest.mark.slow
async def test_a_hook_is_called_again_where_its_process_died_and_by_the_next_process_where_it_was_killed(
    queue: Queue, migrated_database: str, tmp_path: Path
) -> None:
    for cls in (hooked.DiesInHook, hooked.OutstaysTimeout):
        assert cls.__task_type__ is not None
        registry.add(cls.__task_type__)
    marks = [tmp_path / "dies", tmp_path / "outstays"]
    with runner_process(migrated_database, tmp_path / "log", "--kill-grace", "200ms", tasks="tests.programs.hooked"):
        dies = queue.enqueue(hooked.DiesInHook(mark=str(marks[0])))
        await eventually(lambda: dies.status() is Status.SUCCEEDED)
        outstays = queue.enqueue(hooked.OutstaysTimeout(mark=str(marks[1])))
        await eventually(lambda: outstays.status() is Status.DEAD)
    assert [mark.read_text() for mark in marks] == ["called\ncalled\n", "TimeoutError\n"]


@pytest.mark.parametrize("waits", [False, True])
async def test_error_handlers_are_told_of_failures_alone_whether_the_task_waits_or_not(
    queue: Queue, drain: Drain, waits: bool
) -> None:
    seen: list[str] = []

    @pgqueue.on_error
    async def alert(queue: AsyncQueue, task: Task[Any], error: BaseException) -> None:
        seen.append(f"{error!r}")

    @task
    class Quick(Task[int]):
        what: str

        async def run(self) -> Any:
            if waits:
                await asyncio.sleep(0)
            if self.what == "raises":
                raise LookupError
            return 1 if self.what == "fine" else self.what

    for what in ("fine", "raises", "no number"):
        queue.enqueue(Quick(what=what))
    await drain(concurrency=1)
    assert [one.partition("(")[0] for one in seen] == ["LookupError", "PayloadError"]


# ── middleware ──────────────────────────────────────────────────────────────────────────────────────────────────────


def layers(events: list[str]) -> tuple[Any, Any]:
    """A sync layer and an async one."""

    def plain(task: Any, call_next: Callable[[], Any], *, name: str) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        events.append(f"{name} in")
        try:
            return call_next()
        finally:
            events.append(f"{name} out")

    async def waiting(task: Any, call_next: Callable[[], Awaitable[Any]], *, name: str) -> Any:
        assert asyncio.current_task() is not None
        events.append(f"{name} in")
        try:
            return await call_next()
        finally:
            events.append(f"{name} out")

    return plain, waiting


@pytest.mark.parametrize("kinds", ["ps", "sp", "psps", "ssp", "pp"])
async def test_layers_of_any_kind_lie_around_any_run_the_first_outermost(queue: Queue, drain: Drain, kinds: str) -> None:
    events: list[str] = []
    plain, waiting = layers(events)
    made = [functools.partial(plain if kind == "p" else waiting, name=str(place)) for place, kind in enumerate(kinds)]
    half = len(made) // 2
    for layer in made[:half]:
        pgqueue.middleware(batches=True)(layer)

    @task(middleware=made[half:])
    class Async(Task[int]):
        async def run(self) -> int:
            await asyncio.sleep(0)
            events.append("run")
            return 7

    @task(middleware=made[half:])
    class Thread(Task[int]):
        def run(self) -> int:
            events.append("run")
            return 7

    @task(middleware=made[half:], batch_size=3)
    class Batch(Task[int]):
        @classmethod
        def run_many(cls, tasks: Sequence[Self]) -> list[int | BaseException]:
            events.append("run")
            return [7] * len(tasks)

    names = [str(place) for place in range(len(made))]
    wanted = [*(f"{name} in" for name in names), "run", *(f"{name} out" for name in reversed(names))]
    handles = {}
    for cls in (Async, Thread, Batch):
        events.clear()
        handles[cls] = queue.enqueue(cls())
        await drain(concurrency=1)
        assert events == wanted, cls
        assert handles[cls].result(timeout=0) == 7
        events.clear()
        # In a thread of its own: where everything is sync, it runs where it was called.
        assert await asyncio.to_thread(queue.run_now, cls()) == 7
        assert events == wanted, cls


async def test_what_a_layer_returns_or_raises_counts_as_the_runs_and_batches_are_wrapped_if_asked(
    queue: Queue, drain: Drain
) -> None:
    async def instead(task: Task[int], call_next: Callable[[], Awaitable[int]]) -> int:
        return 3

    def refuses(task: Task[int], call_next: Callable[[], int]) -> int:
        raise Ignore("not today")

    def exits(task: Task[int], call_next: Callable[[], int]) -> int:
        call_next()
        raise SystemExit

    @pgqueue.middleware
    def everywhere(task: Task[Any], call_next: Callable[[], Any]) -> Any:
        return task.context.type and call_next()

    def make(name: str, layer: Any) -> Any:
        @task(name=name, middleware=layer)
        class One(Task[int]):
            async def run(self) -> int:
                if name == "exits":
                    raise SystemExit("it must not end the loop, on which this runs in a task of its own")
                return 1

        return One

    @task(batch_size=3)
    class Batch(Task[int]):
        @classmethod
        async def run_many(cls, tasks: Sequence[Self]) -> list[int | BaseException]:
            return [1] * len(tasks)  # everywhere() would fail on a list

    kinds = [make("instead", instead), make("refuses", refuses), make("exits", exits), Batch]
    handles = [queue.enqueue(cls()) for cls in kinds]
    await drain()
    assert [handle.status() for handle in handles] == [Status.SUCCEEDED, Status.IGNORED, Status.DEAD, Status.SUCCEEDED]
    assert handles[0].result(timeout=0) == 3
    record = queue.get(handles[2])
    assert record is not None
    assert record.reason is not None
    assert record.reason.startswith("SystemExit")


async def test_a_timeout_reaches_an_async_run_through_the_thread_of_a_sync_layer(queue: Queue, drain: Drain) -> None:
    events: list[str] = []

    def holds(task: Task[Any], call_next: Callable[[], Any]) -> Any:
        return call_next()

    @task(middleware=holds, timeout=timedelta(milliseconds=100))
    class Long(Task):
        async def run(self) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                events.append("interrupted")

        def on_failure(self, error: BaseException) -> None:
            events.append(f"on_failure {type(error).__name__}")

    handle = queue.enqueue(Long())
    await drain()
    assert events == ["interrupted", "on_failure TimeoutError"]
    assert handle.status() is Status.DEAD


# ── what is refused, and what costs nothing ─────────────────────────────────────────────────────────────────────────


class _AsyncCallable:
    async def __call__(self, task: Task[Any]) -> None: ...


def test_hooks_that_cannot_be_called_are_refused_where_they_are_named() -> None:
    def none() -> None: ...
    def three(task: Any, result: Any, more: Any) -> None: ...
    def yields(task: Any, error: Any) -> Any:
        yield

    for options, said in (
        ({"on_start": none}, r"@task on .*on_start: .*none is called with \(task\)"),
        ({"on_success": [three]}, r"on_success: .*three is called with \(task, result\)"),
        ({"on_dead": "send-mail"}, r"on_dead takes a function of \(task, error\), not 'send-mail'"),
        ({"on_dead": yields}, "yields"),
        ({"on_retry": int}, "on_retry takes a function"),
        ({"middleware": [none]}, r"middleware: .*none is called with \(task, call_next\)"),
    ):
        with pytest.raises(ConfigurationError, match=said):

            @task(**options)
            class Wrong(Task):
                async def run(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"`on_dead` is a method: write `def on_dead\(self, error\)`"):

        @task
        class Static(Task):
            @staticmethod
            def on_dead(error: BaseException) -> None: ...

            async def run(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"on_failure: .* is called with \(task, error\)"):

        @task
        class TooFew(Task):
            def on_failure(self) -> None: ...  # type: ignore[override]

            async def run(self) -> None: ...

    with pytest.raises(ConfigurationError, match="would hide Task.on_dead"):

        class Hides(Task):
            on_dead: int  # type: ignore[assignment]

            async def run(self) -> None: ...

    for wrong in (lambda: pgqueue.on_error(three and none), lambda: pgqueue.on_start(3), lambda: pgqueue.middleware(batches=1)):
        with pytest.raises(ConfigurationError):
            wrong()


def test_types_without_hooks_are_not_looked_at_again() -> None:
    @task
    class Plain(Task):
        async def run(self) -> None: ...

    @task(on_start=_AsyncCallable())
    class Watched(Task):
        async def run(self) -> None: ...

    found = hooks_by_type(registry, ["plain", "watched"])
    assert list(found) == ["watched"]
    assert found["watched"].on_start[0].is_async
    pgqueue.on_error(lambda queue, task, error: None)
    found = hooks_by_type(registry, ["plain", "watched"])
    assert [(name, hooks.wraps) for name, hooks in found.items()] == [("plain", False), ("watched", True)]
