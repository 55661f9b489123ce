"""Task types as operators' objects: what is set over the code of a type, where it applies, and types that are disabled."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import random
import threading
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from pgqueue import AsyncQueue, ConfigurationError, Queue, Retry, Runner, Scheduler, Status, Task, TypeRecord, UnknownTask, task
from pgqueue.cli.main import app
from pgqueue.definition import define
from pgqueue.outcomes import Verdict
from pgqueue.overrides import CONCURRENCY_MAX, STORED, check_type_options, in_force, overridden, read
from pgqueue.policies import Policies
from pgqueue.processes import Setup, _attempt, _ChildServices, _Job
from pgqueue.registry import Registry, registry
from pgqueue.settings import Settings
from pgqueue.statements import statements
from pgqueue.watermark import WHOLE, Watermarks
from tests.conftest import eventually
from tests.test_claim import numbers, register_note
from tests.test_scan import insert, parts
from tests.test_strangers import block, known, look, standing

SQL = statements("pgqueue")
NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"
Row = psycopg.Connection[Any]
SECOND = timedelta(seconds=1)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners look every few milliseconds what operators say."""
    monkeypatch.setattr("pgqueue.upkeep.POLICIES_SECONDS", 0.02)


@pytest.fixture
def settings() -> Settings:
    return Settings(poll_interval="50ms", unknown_type_delay="100ms", app="test")  # type: ignore[arg-type]


def register(connection: Row, *names: str, options: str = "{}") -> None:
    """Types as a runner that is gone has left them."""
    for name in names:
        connection.execute(
            "INSERT INTO pgqueue.task_type (name, title, payload_schema, options) VALUES (%s, 'T', '{}', %s)", (name, options)
        )


# ── what may be said ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing to set; it takes priority, retry, timeout, max_concurrency, rate_limit"),
        ({"prio": 1}, "no option 'prio'; it takes priority"),
        ({"priority": None}, "priority takes a whole number from -32767 to 32767"),
        ({"priority": True}, "priority takes"),
        ({"priority": 40_000}, "priority takes"),
        ({"timeout": 30}, "timeout takes a timedelta"),
        ({"timeout": timedelta(0)}, "timeout takes a timedelta above zero"),
        ({"retry": 3}, r"retry takes Retry\(max_attempts=...\), and Retry\(max_attempts=1\) for none"),
        ({"retry": None}, "retry takes"),
        ({"retry": Retry(on=OSError)}, "on= and unless= are code"),
        ({"max_concurrency": 0}, "max_concurrency takes a whole number from 1"),
        ({"max_concurrency": 1.5}, "max_concurrency takes"),
        ({"rate_limit": "100"}, 'rate_limit takes a number of up to .* such as "100/minute"'),
        ({"rate_limit": "0/minute"}, "rate_limit takes"),
        ({"rate_limit": "5/fortnight"}, "the windows are second, minute, hour and day"),
        ({"rate_limit": 5}, "rate_limit takes"),
        ({"priority": 1, "timeout": -SECOND}, "timeout takes"),
    ],
)
async def test_a_wrong_override_is_refused_before_anything_is_sent(options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Queue(NOBODY).types.update("send-email", **options)
    with pytest.raises(ConfigurationError, match=words):
        await AsyncQueue(NOBODY).types.update("send-email", **options)


async def test_a_wrong_name_is_refused_before_anything_is_sent() -> None:
    queue = AsyncQueue(NOBODY)
    for name in ("", "x" * 201, 7, "a\0b"):
        for call in (queue.types.get, queue.types.disable, queue.types.enable, queue.types.reset):
            with pytest.raises(ConfigurationError, match="name"):
                await call(name)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="types.reset has no option 'timeout_seconds'; it takes priority"):
        await queue.types.reset("send-email", "timeout_seconds")


lengths = st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=300))
retries = st.builds(
    lambda attempts, backoff, pair, jitter: Retry(
        max_attempts=attempts, backoff=backoff, initial=min(pair), maximum=max(pair), jitter=jitter
    ),
    st.integers(1, 10_000),
    st.sampled_from(["exponential", "linear", "fixed"]),
    st.tuples(lengths, lengths),
    st.floats(0, 1).map(lambda most: (most / 2, most)),
)
said = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(-32_767, 32_767),
        "retry": retries,
        "timeout": st.none() | lengths,
        "max_concurrency": st.none() | st.integers(1, CONCURRENCY_MAX),
        "rate_limit": st.none()
        | st.builds(lambda count, window: f"{count}/{window}", st.integers(1, 10**9), st.sampled_from(["second", "day"])),
    },
).filter(bool)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["jitter", "max_attempts", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


class Plain(Task):
    async def run(self) -> None: ...


PLAIN = define(Plain)


@given(options=said)
def test_what_is_stored_reads_back_as_it_was_said(options: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(check_type_options(options)))
    assert read(stored) == (options, [])
    applies = in_force({"priority": 100, "queue": "mail", "timeout_seconds": 1.0}, stored)
    assert applies["queue"] == "mail"
    assert applies["priority"] == options.get("priority", 100)
    assert applies["timeout_seconds"] == stored.get("timeout_seconds", 1.0)


@given(stored=st.dictionaries(st.sampled_from([*STORED.values(), "newer"]), json_values) | json_values)
def test_no_override_written_by_hand_breaks_a_runner(stored: Any) -> None:
    types = Registry()
    types.add(PLAIN)
    runs = overridden(PLAIN, stored)
    assert -32_767 <= runs.priority <= 32_767
    assert runs.timeout is None or runs.timeout > timedelta(0)
    assert runs.retry is None or isinstance(runs.retry.delay(tries=0, error=None, random=random.Random(1)), timedelta | None)
    in_force({}, stored)
    policies = Policies(types, ["plain"])
    policies.learn([("plain", json.dumps(stored), False)])
    policies.learn([])
    assert policies.registry.get("plain") is PLAIN


def test_a_runner_says_once_what_it_cannot_read(caplog: pytest.LogCaptureFixture) -> None:
    register_note()
    policies = Policies(registry, ["note"])
    row = ("note", '{"timeout_seconds": "soon", "priority": 7}', False)
    policies.learn([row])
    policies.learn([row])
    assert policies.registry.get("note").priority == 7
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "an override of type 'note' is left out: timeout_seconds: timeout takes a number of seconds, not 'soon'. Set it anew, or reset it"
    ]
    policies.learn([("note", "[" * 100_000, False)])  # PostgreSQL stores what is nested too deeply for Python
    assert "not a JSON object" in caplog.text
    policies.learn([])
    assert policies.registry.get("note") is registry.get("note")


def test_a_retry_override_leaves_to_the_code_which_errors_are_tried_again() -> None:
    @task(retry=Retry(max_attempts=2, unless=ValueError))
    class Picky(Task):
        async def run(self) -> None: ...

    @task
    class Own(Task):
        async def run(self) -> None: ...

        def next_try(self) -> timedelta | None:
            return None

    stored = check_type_options({"retry": Retry(max_attempts=9)})
    policy = overridden(Picky.__task_type__, stored).retry
    assert policy is not None
    assert (policy.max_attempts, policy.unless) == (9, ValueError)
    assert Own.__task_type__.asks_next_try
    assert not overridden(Own.__task_type__, stored).asks_next_try


# ── what is stored ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_type_shows_its_code_what_is_set_over_it_and_who_knows_it(
    queue: Queue, async_queue: AsyncQueue, connection: Row, migrated_database: str, settings: Settings
) -> None:
    @task(priority=50, timeout=SECOND, retry=Retry(max_attempts=2, backoff="fixed"))
    class SendEmail(Task):
        """Send an email.

        At once.
        """

        to: str

        async def run(self) -> None: ...

    assert queue.types.list() == await async_queue.types.list() == []
    with pytest.raises(UnknownTask, match="No type is registered yet; it is known once a runner with it started"):
        queue.types.disable("send-email")
    async with Runner(AsyncQueue(migrated_database, settings=settings), name="one"):
        await eventually(lambda: queue.types.get("SendEmail").runners == ("one",))
        found = await async_queue.types.update("send_email", timeout=timedelta(minutes=2), max_concurrency=3)
    assert (found.name, found.title, found.description) == ("send-email", "Send an email", "At once.")
    assert found.payload_schema["properties"]["to"] == {"title": "To", "type": "string"}
    assert (found.options["priority"], found.options["timeout_seconds"]) == (50, 1.0)
    assert found.overrides == {"timeout_seconds": 120.0, "max_concurrency": 3}
    assert found.effective == {**found.options, "timeout_seconds": 120.0, "max_concurrency": 3}
    assert (found.runners, found.disabled_at) == (("one",), None)
    assert found.first_seen_at < found.updated_at

    retry = Retry(max_attempts=5, backoff="linear", initial=SECOND)
    queue.types.update("send-email", priority=-5, retry=retry, timeout=None, rate_limit="100/minute")
    disabled = await async_queue.types.disable("send-email")
    assert disabled.disabled_at is not None
    assert (await async_queue.types.disable("send-email")).disabled_at == disabled.disabled_at

    # Another program with the same type starts: the overrides stay, the definition is the newer one's.
    async with Runner(AsyncQueue(migrated_database, settings=settings), name="two"):
        pass
    again = queue.types.get("send-email")
    assert (again.runners, again.disabled_at) == ((), disabled.disabled_at)
    assert again.overrides == {
        "timeout_seconds": None, "max_concurrency": 3, "priority": -5, "rate_limit": "100/minute", "retry": retry.as_json(),
    }  # fmt: skip
    assert (again.effective["timeout_seconds"], again.effective["retry"]) == (None, "5 attempts, linear from 1s up to 1h")
    assert json.loads(json.dumps(again.as_json()))["effective"] == again.effective

    assert queue.types.reset("send-email", "timeout", "priority").overrides.keys() == {"max_concurrency", "rate_limit", "retry"}
    assert (await async_queue.types.enable("send-email")).disabled_at is None
    assert (await async_queue.types.reset("send-email")).overrides == {}
    assert await async_queue.types.reset("send-email", "timeout") == queue.types.get("send-email")

    register(connection, "other")
    assert [one.name for one in queue.types.list()] == ["other", "send-email"]
    for call in (queue.types.get, queue.types.enable, queue.types.reset, lambda name: queue.types.update(name, priority=1)):
        with pytest.raises(UnknownTask, match=r"task type 'send-emial'. Did you mean send-email\?"):
            call("send-emial")
    with pytest.raises(UnknownTask, match="Registered are other, send-email"):
        await async_queue.types.get("zzz")


def test_updates_at_the_same_moment_do_not_lose_one_another(queue: Queue, connection: Row, migrated_database: str) -> None:
    register(connection, "note")
    late: list[TypeRecord] = []
    with psycopg.connect(migrated_database) as first:
        first.execute(
            SQL.type_change.text,
            {**dict.fromkeys(["removed", "clears", "disables"]), "name": "note", "merged": '{"priority": 7}'},
        )
        second = threading.Thread(target=lambda: late.append(queue.types.update("note", timeout=SECOND)))
        second.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while connection.execute(waiting).fetchone() != (1,):
            assert second.is_alive()
        first.commit()
        second.join(10)
    assert late[0].overrides == {"priority": 7, "timeout_seconds": 1.0}


# ── priority: at the enqueue ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_priority_override_applies_to_every_way_of_enqueueing_unless_the_enqueue_names_its_own(
    queue: Queue, async_queue: AsyncQueue, connection: Row, migrated_database: str, settings: Settings
) -> None:
    note = register_note()

    @task(unique=True, priority=10)
    class Single(Task):
        async def run(self) -> None: ...

    @task(frequency=timedelta(hours=1))
    class Hourly(Task):
        async def run(self) -> None: ...

    def priorities(type: str = "note") -> list[int]:
        rows = connection.execute("SELECT priority FROM pgqueue.task WHERE type = %s ORDER BY id", (type,)).fetchall()
        connection.execute("DELETE FROM pgqueue.task")
        return [priority for (priority,) in rows]

    register(connection, "note", "single", "hourly", "other")
    queue.types.update("other", priority=1)
    queue.enqueue(note())
    queue.types.update("note", priority=777)
    queue.types.update("single", priority=778)
    queue.types.update("hourly", priority=779)
    queue.enqueue(note())
    await async_queue.enqueue(note())
    queue.enqueue(note(), priority=5)
    queue.enqueue(note(), priority=100)
    queue.enqueue_by_name("note", {}, delay=SECOND)
    queue.enqueue(note(), idempotency_key="one")
    with psycopg.connect(migrated_database) as own:
        queue.enqueue(note(), connection=own)
    assert priorities() == [100, 777, 777, 5, 100, 777, 777, 777]

    queue.enqueue_many([note(), Single(), note()])
    assert priorities("single") == [778]
    queue.enqueue_many([note(), note()])
    assert priorities() == [777, 777]
    queue.enqueue_many([note()] * 3, priority=6)
    assert priorities() == [6, 6, 6]
    await async_queue.enqueue_many(note(number=number) for number in range(300))  # by COPY
    assert set(priorities()) == {777}
    queue.enqueue_many([note(number=number) for number in range(300)], priority=6)
    assert set(priorities()) == {6}
    async with Scheduler(AsyncQueue(migrated_database, settings=settings)):
        await eventually(lambda: connection.execute("SELECT 1 FROM pgqueue.task").fetchone())
    assert priorities("hourly") == [779]

    queue.types.reset("note", "priority")
    queue.enqueue(note())
    queue.enqueue_many([note(number=number) for number in range(300)])
    assert set(priorities()) == {100}


# ── timeout and retry: at the start of an attempt ───────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("hurried")
async def test_timeout_and_retry_overrides_reach_running_runners_and_those_that_start_later(
    queue: Queue, migrated_database: str, settings: Settings
) -> None:
    @task(timeout=timedelta(minutes=5))
    class Hanging(Task):
        async def run(self) -> None:
            await asyncio.sleep(600)

    @task
    class Failing(Task):
        def run(self) -> None:
            raise OSError("broken")

        def next_try(self) -> timedelta | None:
            return None

    @task(batch_size=5)
    class Many(Task):
        @classmethod
        async def run_many(cls, tasks: list[Many]) -> None:
            raise OSError("broken")

    at_once = Retry(max_attempts=3, initial=timedelta(0))

    async def attempts_of(*tasks: Task[Any], **options: Any) -> list[int]:
        """How many each spends until it is dead."""
        handles = [queue.enqueue(one, **options) for one in tasks]
        await eventually(lambda: {handle.status() for handle in handles} == {Status.DEAD})
        return [queue.get(handle).attempt for handle in handles]

    async with Runner(AsyncQueue(migrated_database, settings=settings), name="early") as runner:
        assert await attempts_of(Failing(), Many()) == [1, 1]
        queue.types.update("hanging", timeout=timedelta(milliseconds=10))
        for name in ("failing", "many"):
            queue.types.update(name, retry=at_once)
        policies = runner._running()._policies.registry
        await eventually(lambda: policies.get("hanging").timeout != timedelta(minutes=5) and policies.get("many").retry)
        assert await attempts_of(Hanging(), Failing(), Many()) == [1, 3, 3]
        # What the enqueue says of its own task wins.
        assert await attempts_of(Failing(), Many(), retry=Retry(max_attempts=2, initial=timedelta(0))) == [2, 2]
    async with Runner(AsyncQueue(migrated_database, settings=settings), name="late") as runner:
        assert await attempts_of(Hanging(), Failing()) == [1, 3]
        for name in ("hanging", "failing"):
            queue.types.reset(name)
        policies = runner._running()._policies.registry
        await eventually(lambda: policies.get("failing").asks_next_try)
        assert await attempts_of(Failing()) == [1]
    assert registry.get("hanging").timeout == timedelta(minutes=5)


def test_a_process_of_its_own_decides_by_the_retry_override_too() -> None:
    @task(executor="process")
    class Failing(Task):
        def run(self) -> None:
            raise OSError("broken")

    setup, (pipe, _) = Setup(NOBODY, "pgqueue", uuid.uuid4(), 1_000), multiprocessing.Pipe()
    row = ("default", "c", "0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11", "failing", 1, 100, 0, 0, "{}", None, False)
    stored = check_type_options({"retry": Retry(max_attempts=2)})
    for overrides, verdict in ((None, Verdict.DEAD), (stored, Verdict.RETRIED)):
        job = _Job(Failing.__module__, "failing", row, overrides)
        assert _attempt(job, _ChildServices(setup, pipe), setup).verdict is verdict


# ── disabled types ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("hurried")
async def test_tasks_of_a_disabled_type_wait_without_spending_an_attempt_and_run_once_it_is_enabled(
    queue: Queue,
    async_queue: AsyncQueue,
    connection: Row,
    migrated_database: str,
    settings: Settings,
    drain: Callable[..., Awaitable[Runner]],
) -> None:
    note = register_note()

    @task
    class Other(Task):
        async def run(self) -> None: ...

    def all_are(handles: list[Any], status: Status) -> bool:
        return {handle.status() for handle in handles} == {status}

    async with Runner(AsyncQueue(migrated_database, settings=settings), name="one") as runner:
        await (await async_queue.enqueue(note())).result(timeout=10)
        await async_queue.types.disable("Note")
        await eventually(lambda: "note" not in runner._running()._policies.claimable)
        waiting = [queue.enqueue(note(number=number), priority=priority) for number, priority in enumerate((1, 100, 200))]
        waiting.append(queue.enqueue(note(), delay=timedelta(milliseconds=10)))
        # Beside a runner that is at work, and has nothing else to do.
        await eventually(lambda: all_are(waiting, Status.BLOCKED))
        await (await async_queue.enqueue(Other())).result(timeout=10)
        records = [queue.get(handle) for handle in waiting]
        assert {(record.reason, record.attempt, record.crashes) for record in records} == {("its type is disabled", 0, 0)}
        assert {record.reason for record in queue.list(status="blocked")} == {"its type is disabled"}
        assert queue.types.get("note").runners == ("one",)
    # A runner that starts now leaves them alone too, and is not kept from its end by them.
    late = queue.enqueue(note())
    await drain()
    assert late.status() in (Status.READY, Status.BLOCKED)  # before or after a look has put it aside
    assert waiting[0].cancel()
    async with Runner(AsyncQueue(migrated_database, settings=settings), name="two"):
        await (await async_queue.enqueue(Other())).result(timeout=10)
        await async_queue.types.enable("note")
        await eventually(lambda: all_are([*waiting[1:], late], Status.SUCCEEDED))
    assert {queue.get(handle).attempt for handle in waiting[1:]} == {1}


async def test_disabled_tasks_are_blocked_at_once_and_freed_only_when_enabled(
    migrated_database: str, connection: Row, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    register(connection, "note", "off", "other")
    known(connection, "note", "off")
    insert(connection, 50, type="off", priority=200)
    insert(connection, 20, type="OFF", since="30 m")
    insert(connection, 5, type="unknown", since="20 m")
    insert(connection, 5, since="10 m")
    queue.types.disable("off")
    async with parts(migrated_database, "note") as one, parts(migrated_database, "note", "off") as unaware:
        await look(one)
        await block(one)
        # No delay of an hour for them; and claims start behind them.
        assert standing(connection) == {("off", "blocked"): 70, ("unknown", "ready"): 5, ("note", "ready"): 5}
        assert connection.execute("SELECT DISTINCT blocked_on FROM pgqueue.task WHERE type = 'off'").fetchall() == [("disabled",)]
        assert numbers(await one.lane.claim("default", 10)) == [1, 2, 3, 4, 5]
        # A runner that has not heard of it yet must not free them.
        assert await unaware.strangers.free("default") > 0.0
        assert await one.strangers.free("default") > 0.0
        assert standing(connection)["off", "blocked"] == 70
        # Who would have them run alone must not start a process for it.
        insert(connection, 1, type="off", since="5 m")
        connection.execute(
            "UPDATE pgqueue.task SET status = 'blocked', blocked_on = 'suspect' WHERE type = 'off' AND status = 'ready'"
        )
        suspects = (SQL.has_suspects.text, {"queues": None, "types": ["note", "off"]})
        assert connection.execute(*suspects).fetchone() == (False,)

        queue.types.enable("off")
        await unaware.strangers.free("default")
        assert standing(connection)["off", "ready"] == 70
        assert connection.execute(*suspects).fetchone() == (True,)
        assert len(await unaware.lane.claim("default", 100)) == 70
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_claims_start_from_the_head_again_when_a_type_is_enabled() -> None:
    """Also where one is under way: it began beyond what may be claimed now, and must not move the watermark back over that."""
    at = datetime(2030, 1, 1, tzinfo=UTC)
    watermarks = Watermarks()
    assert watermarks.pass_by(100, at, "00000000-0000-0000-0000-000000000001", 10, WHOLE)
    looked_from = watermarks.segments()
    watermarks.restart()
    assert watermarks.segments().maturities[-1] < at.isoformat()
    assert not watermarks.pass_by(100, at + SECOND, "00000000-0000-0000-0000-000000000002", 10, looked_from)
    assert watermarks.segments().maturities[-1] < at.isoformat()
    assert watermarks.pass_by(100, at + SECOND, "00000000-0000-0000-0000-000000000002", 10, watermarks.segments())


# ── the command line ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_sets_resets_disables_and_shows(migrated_database: str, connection: Row) -> None:
    register(connection, "send-email", options='{"priority": 50, "timeout_seconds": 30.0, "retry": null, "tags": []}')

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(app, ["types", *words], env={"DATABASE_URL": migrated_database, "COLUMNS": "200"})

    def said(*words: str) -> str:
        done = invoke(*words)
        assert done.exit_code == 0, done.output
        return done.stdout

    def document(*words: str) -> Any:
        return json.loads(said(*words, "--json"))

    found = document("set", "SendEmail", "--timeout", "2m", "--max-attempts", "3", "--initial", "5s", "--priority=-1")
    assert found["overrides"]["timeout_seconds"] == 120.0
    assert found["effective"]["retry"] == "3 attempts, exponential from 5s up to 1h"
    assert said("set", "send-email", "--timeout", "none", "--max-concurrency", "4", "--rate-limit", "9/second") == (
        "send-email: priority -1, retry 3 attempts, exponential from 5s up to 1h, timeout none, max_concurrency 4, rate_limit 9/second\n"
    )
    assert document("list")["types"] == [document("show", "send_email")]
    assert said("disable", "send-email").endswith("; disabled\n")
    assert "disabled" in said("list")
    sheet = said("show", "send-email")
    assert "disabled since" in sheet
    assert [line.split() for line in sheet.splitlines() if line.startswith(("timeout", "priority"))] == [
        ["priority", "50", "-1", "-1"], ["timeout", "30s", "none", "none"],
    ]  # fmt: skip
    assert document("enable", "send-email")["disabled_at"] is None
    assert document("reset", "send-email", "max-concurrency", "retry")["overrides"].keys() == {
        "priority",
        "timeout_seconds",
        "rate_limit",
    }
    assert said("reset", "send-email") == "send-email: as in its code\n"

    nothing = invoke("set", "send-email")
    assert (nothing.exit_code, nothing.stdout) == (2, "")
    assert "there is nothing to set" in nothing.stderr
    for words, kind in [
        (("show", "nobody"), UnknownTask),
        (("set", "send-email", "--max-concurrency", "many"), ConfigurationError),
        (("set", "send-email", "--backoff", "wild"), ConfigurationError),
        (("set", "send-email", "--timeout", "soon"), ConfigurationError),
        (("reset", "send-email", "colour"), ConfigurationError),
    ]:
        # `main` makes one line and exit code 2 of it.
        assert isinstance(invoke(*words).exception, kind)
    connection.execute("""UPDATE pgqueue.task_type SET overrides = '{"newer": 1, "timeout_seconds": "soon"}'""")
    assert "(this version cannot read it)" in said("disable", "send-email")
    assert "send-email" in said("show", "send-email")
    connection.execute("DELETE FROM pgqueue.task_type")
    assert "no task type is registered" in said("list")
