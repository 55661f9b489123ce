"""Changes to one task by hand: update, delete, restore, purge, mark, and a copy; each against a claim that wins the race."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import (
    AsyncQueue,
    ConfigurationError,
    EnqueueConflict,
    KeyTaken,
    PayloadError,
    PgQueueError,
    Queue,
    Retry,
    Runner,
    Status,
    Task,
    TaskBusy,
    TaskDead,
    TaskDeleted,
    TaskFinished,
    TaskHandle,
    TaskNotFound,
    Unique,
    WrongStatus,
    change_operations,
    registry,
    task,
)
from pgqueue.database import run
from pgqueue.models import TaskRow
from pgqueue.operations import Inserted
from pgqueue.registry import Registry
from pgqueue.settings import Settings
from pgqueue.states import UNFINISHED, WAITING, may_move
from tests.conftest import eventually, wait_until

NOWHERE = Queue("postgresql://127.0.0.1:1/nowhere")
SOON = timedelta(hours=1)
Row = psycopg.Connection[Any]


class Note(Task[int]):
    name: str = "a"

    async def run(self) -> int:
        return len(self.name)


class Sole(Task):
    key: int = 0
    text: str = ""

    async def run(self) -> None: ...


@pytest.fixture(autouse=True)
def types() -> None:
    task(Note)
    task(unique=Unique(by=("key",)))(Sole)


@pytest.fixture
def stranger(migrated_database: str, settings: Settings) -> Any:
    """A client that knows no task types."""
    with Queue(migrated_database, settings=settings, registry=Registry()) as queue:
        yield queue


def claim(connection: Row, id: uuid.UUID) -> None:
    """As a lane leases what it had locked."""
    connection.execute(
        """UPDATE pgqueue.task SET status = 'running', blocked_on = NULL, attempt = attempt + 1, runner_id = gen_random_uuid(),
        claim_id = gen_random_uuid(), claimed_at = clock_timestamp() WHERE id = %s""",
        (id,),
    )


def stored(connection: Row, id: uuid.UUID) -> dict[str, Any]:
    """A waiting row, but for what every change renews."""
    row = connection.execute(
        "SELECT to_jsonb(task) - '{claim_id,updated_at,lineage}'::text[] FROM pgqueue.task WHERE id = %s", (id,)
    ).fetchone()
    assert row is not None
    result: dict[str, Any] = row[0]
    return result


def brought(queue: Queue, connection: Row, status: Status) -> TaskHandle[Any]:
    """A task that stands there."""
    handle = queue.enqueue(Note(), delay=SOON if status is Status.SCHEDULED else None)
    if status is Status.BLOCKED:
        connection.execute("UPDATE pgqueue.task SET status = 'blocked', blocked_on = 'type' WHERE id = %s", (handle.id,))
    elif status is Status.RUNNING:
        claim(connection, handle.id)
    elif status is Status.DEAD:
        queue.mark(handle, "failed")
    elif status is Status.SUCCEEDED:
        queue.mark(handle, "succeeded")
    elif status is Status.DELETED:
        queue.delete(handle)
    elif status not in WAITING:
        handle.cancel()
        connection.execute("UPDATE pgqueue.history SET status = %s WHERE id = %s", (status.value, handle.id))
    assert handle.status() is status
    return handle


# ── every change from everywhere ────────────────────────────────────────────────────────────────────────────────────────────

CHANGES: dict[str, tuple[Callable[[Queue, TaskHandle[Any]], Any], set[Status]]] = {
    "priority": (lambda queue, handle: queue.update(handle, priority=5), set(WAITING)),
    "later": (lambda queue, handle: queue.update(handle, delay=SOON), set(WAITING)),
    "at once": (lambda queue, handle: queue.update(handle, delay=timedelta(0)), set(WAITING)),
    "to another queue": (lambda queue, handle: queue.update(handle, queue="mail"), set(WAITING)),
    "delete": (lambda queue, handle: queue.delete(handle), set(WAITING)),
    "restore": (lambda queue, handle: queue.restore(handle), {Status.DELETED}),
    "succeeded": (lambda queue, handle: queue.mark(handle, "succeeded"), set(UNFINISHED)),
    "failed": (lambda queue, handle: queue.mark(handle, "failed"), set(UNFINISHED)),
    "retry": (lambda queue, handle: queue.dead.retry(handle), {Status.DEAD}),
    "purge": (lambda queue, handle: queue.delete(handle, purge=True), set(Status) - {Status.RUNNING}),
}


def test_every_change_moves_along_the_legal_moves_and_is_refused_from_everywhere_else(queue: Queue, connection: Row) -> None:
    for name, (change, allowed) in CHANGES.items():
        for before in Status:
            handle = brought(queue, connection, before)
            if before not in allowed:
                with pytest.raises(WrongStatus, match=str(handle.id)) as refusal:
                    change(queue, handle)
                assert refusal.value.status is before
                assert isinstance(refusal.value, TaskBusy) <= (before is Status.RUNNING)
                assert handle.status() is before, name
                continue
            change(queue, handle)
            after = handle.status()
            if name == "purge":
                assert after is None
            else:
                assert after is not None
                assert after is before or may_move(before=before, after=after), (name, before, after)
    for change, _ in CHANGES.values():
        with pytest.raises(TaskNotFound):
            change(queue, TaskHandle(queue, Inserted(uuid.uuid4(), "default", True), "note", committed=True))


def test_nothing_is_changed_by_what_makes_no_sense_and_nothing_sent() -> None:
    id = uuid.uuid4()
    for call, message in (
        (lambda: NOWHERE.update("x", priority=1), "is no task id"),
        (lambda: NOWHERE.update(id), "nothing to change; it takes priority, at, delay"),
        (lambda: NOWHERE.update(id, priority=None), "nothing to change"),
        (lambda: NOWHERE.update(id, headers={}), "no option 'headers'"),
        (lambda: NOWHERE.update(id, priority=40_000), "priority takes"),
        (lambda: NOWHERE.update(id, at=datetime(2030, 1, 1)), "naive"),  # noqa: DTZ001  # on purpose
        (lambda: NOWHERE.update(id, at=datetime.now(UTC), delay=SOON), "both delay= and at="),
        (lambda: NOWHERE.update(id, delay=-SOON), "delay takes"),
        (lambda: NOWHERE.update(id, queue=""), "queue takes a name"),
        (lambda: NOWHERE.update(id, payload="x"), "payload takes a task, or a mapping"),
        (lambda: NOWHERE.update(id, tags="x"), "tags takes a list"),
        (lambda: NOWHERE.delete(id, "\0"), "reason"),
        (lambda: NOWHERE.delete(5), "is no task id"),
        (lambda: NOWHERE.restore("x"), "is no task id"),
        (lambda: NOWHERE.mark(id, "cancelled"), 'mark takes "succeeded" or "failed"'),
        (lambda: NOWHERE.mark(id, "failed", result=1), "result= belongs to"),
        (lambda: NOWHERE.mark(id, "failed", reason="\ud800"), "reason"),
        (lambda: NOWHERE.requeue("x"), "is no task id"),
        (lambda: NOWHERE.requeue(id, payload=5), "payload takes"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            call()  # type: ignore[no-untyped-call]


# ── races ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("ending", "expected"), [("lease", TaskBusy), ("finish", TaskFinished), ("give back", None)])
def test_a_change_waits_for_the_lane_that_has_the_row_and_says_what_became_of_it(
    ending: str, expected: type[WrongStatus] | None, queue: Queue, connection: Row, migrated_database: str
) -> None:
    names = ["priority", "to another queue", "delete"]
    handles = [queue.enqueue(Note()) for _ in names]
    outcomes: dict[str, Any] = {}

    def change(name: str, handle: TaskHandle[Any]) -> None:
        try:
            CHANGES[name][0](queue, handle)
            outcomes[name] = None
        except PgQueueError as error:
            outcomes[name] = type(error)

    with psycopg.connect(migrated_database) as lane:
        lane.execute("SELECT id FROM pgqueue.task FOR UPDATE")
        workers = [threading.Thread(target=change, args=pair) for pair in zip(names, handles, strict=True)]
        for worker in workers:
            worker.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        wait_until(lambda: connection.execute(waiting, (lane.info.backend_pid,)).fetchone() == (3,))
        for handle in handles:
            if ending == "lease":
                claim(lane, handle.id)
            elif ending == "finish":
                lane.execute(
                    """WITH ended AS (DELETE FROM pgqueue.task WHERE id = %s RETURNING *) INSERT INTO pgqueue.history
                    (queue, id, type, status, priority, payload, maturity_at, created_at, finished_at, attempt, crashes)
                    SELECT queue, id, type, 'succeeded', priority, payload, maturity_at, created_at, now(), 1, 0 FROM ended""",
                    (handle.id,),
                )
        lane.commit()
        for worker in workers:
            worker.join(20)
    assert outcomes == dict.fromkeys(names, expected)


def test_a_change_does_not_wait_for_ever(
    queue: Queue, connection: Row, migrated_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_operations, "LOCK_WAIT", "50ms")
    handle = queue.enqueue(Note())
    before = stored(connection, handle.id)
    with psycopg.connect(migrated_database) as lane:
        lane.execute("SELECT id FROM pgqueue.task FOR UPDATE")
        for name in ("priority", "delete", "succeeded", "failed", "purge"):
            with pytest.raises(TaskBusy, match=f"{handle.id}.* nothing was changed") as refusal:
                CHANGES[name][0](queue, handle)
            assert refusal.value.status is None
    assert stored(connection, handle.id) == before


def test_a_lost_lane_does_not_regain_what_was_changed_after_it_had_read_it(queue: Queue, connection: Row) -> None:
    kept, changed, restored = (queue.enqueue(Note()) for _ in range(3))
    queue.update(changed, payload={"name": "changed"})
    queue.delete(restored)
    queue.restore(restored)
    runner_id, claim_id = uuid.uuid4(), uuid.uuid4()
    regain = queue._sql.regain(
        queue="default", ids=[kept.id, changed.id, restored.id], runner_id=runner_id, claim_id=claim_id,
        claimed_at=datetime.now(UTC), claims_before="{}",
    )  # fmt: skip
    assert connection.execute(regain.statement.text, regain.parameters).fetchall() == [(str(kept.id), True)]


def test_a_running_attempt_of_a_marked_task_finds_its_lease_lost(
    queue: Queue, migrated_database: str, settings: Settings, connection: Row
) -> None:
    started, go_on = threading.Event(), threading.Event()

    @task(claim="lease", retry=Retry(max_attempts=5))
    class Slow(Task[str]):
        def run(self) -> str:
            started.set()
            go_on.wait(20)
            return "from the runner"

    async def main() -> None:
        async with Runner(AsyncQueue(migrated_database, settings=settings)) as runner:
            for mark, status in (("succeeded", Status.SUCCEEDED), ("failed", Status.DEAD)):
                handle = queue.enqueue(Slow())
                await eventually(started.is_set)
                await asyncio.to_thread(queue.mark, handle, mark, reason="seen to")
                go_on.set()
                await eventually(lambda: not runner._running().slots._active)
                await runner._running().completer.flushed()
                assert handle.status() is status
                record = queue.get(handle)
                assert record is not None
                assert (record.reason, record.result, record.lineage["marked"]["before"]) == ("seen to", None, "running")
                started.clear()
                go_on.clear()
            assert runner._running().completer.lost_lease_count == 2

    asyncio.run(main())
    assert connection.execute("SELECT error_type, error, attempt FROM pgqueue.attempt").fetchall() == [
        ("MarkedFailed", "seen to", 1)
    ]


async def test_what_a_runner_runs_is_what_the_changes_that_came_first_have_left(
    queue: Queue, drain: Callable[..., Awaitable[Runner]]
) -> None:
    ran: set[uuid.UUID] = set()
    running = threading.Event()

    @task
    class Quick(Task[int]):
        value: int = 0

        async def run(self) -> int:
            ran.add(self.context.task_id)
            running.set()
            return self.value

    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    handles = queue.enqueue_many([Quick() for _ in range(250)])
    won: dict[uuid.UUID, str] = {}

    def meddle() -> None:
        for number, handle in enumerate(chance.sample(handles, len(handles))):
            if number == 50:
                running.wait(20)
            name = chance.choice(["update", "delete"])
            try:
                if name == "update":
                    queue.update(handle, payload={"value": 1}, priority=chance.randrange(90, 110))
                else:
                    queue.delete(handle)
                won[handle.id] = name
            except WrongStatus:
                continue

    meddling = asyncio.create_task(asyncio.to_thread(meddle))
    await eventually(lambda: len(won) == 50)
    await drain(concurrency=2)
    await meddling
    for handle in handles:
        if won.get(handle.id) == "delete":
            assert handle.status() is Status.DELETED
            assert handle.id not in ran
        else:
            assert handle.result(timeout=5) == (1 if handle.id in won else 0)


def test_whatever_is_done_at_once_to_the_same_tasks_each_is_in_one_place_and_each_key_once(
    queue: Queue, connection: Row, migrated_database: str, settings: Settings
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    handles = [queue.enqueue(Sole(key=key)) for key in range(6)]
    unexpected: list[BaseException] = []

    def meddle(number: int) -> None:
        chance = random.Random(seed + number)
        with (
            Queue(migrated_database, settings=settings, pool_size=1) as own,
            psycopg.connect(migrated_database, autocommit=True) as lane,
        ):
            for _ in range(40):
                handle = chance.choice(handles)
                name = chance.choice([name for name in CHANGES if name != "purge"] + ["claim", "rekey", "back"])
                try:
                    if name == "claim":
                        lane.execute(
                            """UPDATE pgqueue.task SET status = 'running', blocked_on = NULL, runner_id = gen_random_uuid(),
                            claim_id = gen_random_uuid(), claimed_at = now() WHERE ctid = ANY(ARRAY(
                            SELECT ctid FROM pgqueue.task WHERE status = 'ready' LIMIT 1 FOR UPDATE SKIP LOCKED))"""
                        )
                    elif name == "rekey":
                        own.update(handle, payload=Sole(key=chance.randrange(6)))
                    elif name == "back":
                        own.update(handle, queue="default")
                    else:
                        CHANGES[name][0](own, handle)
                except (WrongStatus, KeyTaken, EnqueueConflict):
                    pass
                except BaseException as error:
                    unexpected.append(error)

    workers = [threading.Thread(target=meddle, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(50)
    assert unexpected == []
    places = connection.execute(
        """SELECT id FROM pgqueue.task UNION ALL SELECT id FROM pgqueue.dead_task UNION ALL SELECT id FROM pgqueue.history"""
    ).fetchall()
    assert sorted(row[0] for row in places) == sorted(handle.id for handle in handles)
    assert all(handle.status() is not None for handle in handles)


# ── update ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_named_is_changed_and_the_rest_stays(queue: Queue, connection: Row) -> None:
    handle = queue.enqueue(Note(), tags=["a"], headers={"h": "1"}, timeout=timedelta(seconds=3), expires=timedelta(days=2))
    before = stored(connection, handle.id)
    record = queue.update(handle, priority=200, tags=["b", "c"], payload={"name": "new"}, delay=SOON)
    assert (record.status, record.priority, record.tags, record.payload) == (Status.SCHEDULED, 200, ("b", "c"), {"name": "new"})
    assert SOON - timedelta(minutes=1) < record.maturity_at - datetime.now(UTC) < SOON + timedelta(minutes=1)
    changed = {"priority", "tags", "payload", "maturity_at", "status"}
    after = stored(connection, handle.id)
    assert {name for name in before if before[name] != after[name]} == changed
    record = queue.update(handle.id, at=datetime(2020, 1, 1, tzinfo=UTC), tags=[])
    assert (record.status, record.tags, record.maturity_at.year) == (Status.READY, (), 2020)
    with pytest.raises(ConfigurationError, match="expires at .* before it may start"):
        queue.update(handle, delay=timedelta(days=3))


def test_what_is_blocked_stays_so_unless_it_is_put_off_and_a_suspect_stays_one(queue: Queue, connection: Row) -> None:
    blocked, suspect, held = (brought(queue, connection, Status.BLOCKED) for _ in range(3))
    connection.execute("UPDATE pgqueue.task SET blocked_on = 'suspect', crashes = 2 WHERE id = %s", (suspect.id,))
    connection.execute("UPDATE pgqueue.task SET blocked_on = 'something else' WHERE id = %s", (held.id,))
    assert [queue.update(one, delay=timedelta(0)).status for one in (blocked, suspect, held)] == ["blocked"] * 3
    assert [queue.update(one, delay=SOON).status for one in (blocked, suspect, held)] == ["scheduled", "scheduled", "blocked"]
    # Due again: the suspect is left to promotion, which blocks it.
    assert [queue.update(one, delay=timedelta(0)).status for one in (blocked, suspect)] == ["ready", "scheduled"]


def test_a_payload_is_checked_and_a_unique_key_of_its_fields_follows_it(queue: Queue, stranger: Queue, connection: Row) -> None:
    one, two = queue.enqueue(Sole(key=1)), queue.enqueue(Sole(key=2))
    before = stored(connection, one.id)
    for payload, error, message in (
        ({"key": "x"}, PayloadError, "does not validate"),
        ({"unknown": 1}, PayloadError, "does not validate"),
        ({"text": "\0"}, PayloadError, "NUL"),
        ({"text": "x" * 2**20}, PayloadError, "over the limit"),
        (Note(), ConfigurationError, "task of type 'note', and this one is of type 'sole'"),
        (Sole(key=2), KeyTaken, f"held in queue 'default' by the unfinished task {two.id}"),
    ):
        with pytest.raises(error, match=message):
            queue.update(one, payload=payload)
    for payload in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(PayloadError):
            stranger.update(one.id, payload=payload)
    assert stored(connection, one.id) == before

    queue.update(one, payload={"key": 1, "text": "edited"})
    assert not queue.enqueue(Sole(key=1)).created
    queue.update(one, payload={"key": 3})
    assert queue.enqueue(Sole(key=3)).id == one.id
    assert queue.enqueue(Sole(key=1)).created

    # A key that an enqueue's own unique= made stays, and so it does where the class is not known.
    whole = queue.enqueue(Sole(key=9), unique=Unique(by=("text",)))
    queue.update(whole, payload={"key": 10})
    assert queue.enqueue(Sole(key=11), unique=Unique(by=("text",))).id == whole.id
    stranger.update(two.id, payload={"key": 50, "anything": [1]})
    assert queue.enqueue(Sole(key=2)).id == two.id


def test_a_key_that_is_taken_at_that_very_moment_is_not_taken_twice(
    queue: Queue, connection: Row, migrated_database: str
) -> None:
    handle = queue.enqueue(Sole(key=1))
    outcome: list[BaseException] = []

    def update() -> None:
        try:
            queue.update(handle, payload=Sole(key=2))
        except PgQueueError as error:
            outcome.append(error)

    with psycopg.connect(migrated_database) as other:
        queue.enqueue(Sole(key=2), connection=other)
        worker = threading.Thread(target=update)
        worker.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        wait_until(lambda: connection.execute(waiting, (other.info.backend_pid,)).fetchone())
        other.commit()
        worker.join(20)
    assert [type(error) for error in outcome] == [EnqueueConflict]
    assert stored(connection, handle.id)["payload"] == {"key": 1, "text": ""}


async def test_to_another_queue_it_goes_whole_with_its_keys_and_its_handles(
    async_queue: AsyncQueue, queue: Queue, connection: Row
) -> None:
    taken = queue.enqueue(Sole(key=1), queue="mail")
    handle = queue.enqueue(
        Sole(key=1), idempotency_key="order", tags=["a"], headers={"h": "1"}, timeout=timedelta(seconds=3), expires=SOON
    )
    claim(connection, handle.id)
    connection.execute("UPDATE pgqueue.task SET status = 'ready', runner_id = NULL WHERE id = %s", (handle.id,))
    before = stored(connection, handle.id)
    with pytest.raises(KeyTaken, match=f"held in queue 'mail' by the unfinished task {taken.id}") as refusal:
        queue.update(handle, queue="mail", priority=7)
    assert refusal.value.holder == taken.id
    assert stored(connection, handle.id) == before

    taken.cancel()
    record = await async_queue.update(handle.id, queue="mail")
    assert (record.queue, record.lineage) == ("mail", {"moved_from": "default"})
    assert stored(connection, handle.id) == {**before, "queue": "mail"}
    assert handle.status() is Status.READY  # the handle still says the old queue
    again = queue.enqueue(Sole(key=1), idempotency_key="order")
    assert (again.id, again.queue_name, again.created) == (handle.id, "mail", False)
    assert queue.enqueue(Sole(key=1)).created  # its unique key went along
    assert queue.enqueue(Sole(key=1), queue="mail").id == handle.id
    assert handle.cancel()
    assert handle.status() is Status.CANCELLED


def test_sleeping_runners_are_told_of_what_a_change_makes_ready(queue: Queue, connection: Row, migrated_database: str) -> None:
    connection.execute("SELECT setval('pgqueue.wake', extract(epoch FROM clock_timestamp())::bigint + 60)")
    later, moved, deleted, dead = (queue.enqueue(Note(), delay=SOON) for _ in range(4))
    queue.update(moved, at=datetime(2020, 1, 1, tzinfo=UTC))
    queue.delete(deleted)
    connection.execute("UPDATE pgqueue.history SET maturity_at = now()")
    queue.mark(dead, "failed")
    for change, told in (
        (lambda: queue.update(later, delay=timedelta(0)), "default"),
        (lambda: queue.update(moved, queue="mail"), "mail"),
        (lambda: queue.restore(deleted), "default"),
        (lambda: queue.dead.retry(dead), "default"),
    ):
        with psycopg.connect(migrated_database, autocommit=True) as listening:
            listening.execute("LISTEN pgqueue")
            change()  # type: ignore[no-untyped-call]
            assert [notice.payload for notice in listening.notifies(timeout=10, stop_after=1)] == [told]


# ── delete and restore, purge, mark ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_deleted_task_comes_back_as_it_was(queue: Queue, connection: Row) -> None:
    handle = queue.enqueue(
        Sole(key=4, text="x"), queue="mail", priority=3, tags=["a"], headers={"h": "1"}, timeout=timedelta(seconds=3),
        retry=Retry(max_attempts=4), expires=SOON, idempotency_key="order",
    )  # fmt: skip
    claim(connection, handle.id)
    connection.execute("UPDATE pgqueue.task SET status = 'ready', runner_id = NULL")
    before = stored(connection, handle.id)
    queue.delete(handle, "a mistake")
    record = queue.get(handle)
    assert record is not None
    assert (record.status, record.reason, record.lineage["deleted"]["status"]) == (Status.DELETED, "a mistake", "ready")
    with pytest.raises(TaskDeleted, match="a mistake"):
        handle.result(timeout=0)
    assert queue.enqueue(Sole(key=4), queue="mail").created  # deleted, it holds no unique key
    with pytest.raises(KeyTaken):
        queue.restore(handle)
    queue.cancel_all(queue="mail")
    assert queue.restore(handle).id == handle.id
    assert stored(connection, handle.id) == before
    assert connection.execute("SELECT count(*) FROM pgqueue.history WHERE id = %s", (handle.id,)).fetchone() == (0,)
    record = queue.get(handle)
    assert record is not None
    assert list(record.lineage) == ["restored_at"]
    assert not queue.enqueue(Sole(key=4), queue="mail").created
    queue.delete(handle)
    queue.restore(handle)
    assert stored(connection, handle.id) == before


def test_what_is_not_due_and_what_crashed_waits_again_after_it_was_restored(queue: Queue, connection: Row) -> None:
    later, suspect, plain = queue.enqueue(Note(), delay=SOON), brought(queue, connection, Status.BLOCKED), queue.enqueue(Note())
    connection.execute("UPDATE pgqueue.task SET blocked_on = 'suspect', crashes = 2 WHERE id = %s", (suspect.id,))
    for handle in (later, suspect, plain):
        queue.delete(handle)
        queue.restore(handle)
    assert [handle.status() for handle in (later, suspect, plain)] == ["scheduled", "scheduled", "ready"]


def test_what_is_purged_leaves_nothing(queue: Queue, connection: Row) -> None:
    for status in set(Status) - {Status.RUNNING}:
        handle = brought(queue, connection, status)
        connection.execute(
            """INSERT INTO pgqueue.attempt (queue, task_id, type, attempt, finished_at, error_type, error)
            VALUES ('default', %(id)s, 'note', 1, now(), 'E', 'e')""",
            {"id": handle.id},
        )
        connection.execute(
            "INSERT INTO pgqueue.task_log (queue, task_id, attempt, level, message) VALUES ('default', %s, 1, 20, 'm')",
            (handle.id,),
        )
        queue.delete(handle, purge=True)
    for table in ("task", "dead_task", "history", "attempt", "task_log"):
        assert connection.execute(f"SELECT count(*) FROM pgqueue.{table}").fetchone() == (0,), table


def test_a_result_given_by_hand_is_the_result(queue: Queue, stranger: Queue) -> None:
    one, two, three = queue.enqueue(Note()), queue.enqueue(Note()), queue.enqueue(Note())
    with pytest.raises(PayloadError, match="not what Task"):
        queue.mark(one, "succeeded", result="five")
    with pytest.raises(PayloadError, match="cannot be stored"):
        stranger.mark(one.id, "succeeded", result=object())
    queue.mark(one, "succeeded", result=5)
    stranger.mark(two.id, "succeeded", result=6)
    queue.mark(three, "failed", reason="never sent")
    assert (one.result(timeout=0), two.result(timeout=0)) == (5, 6)
    with pytest.raises(TaskDead, match="never sent"):
        three.result(timeout=0)
    assert queue.attempts(three) == []  # nobody had tried


def test_a_change_repeated_after_a_lost_answer_is_still_a_success(queue: Queue) -> None:
    sql = queue._sql
    one, two, three = (queue.enqueue(Note()) for _ in range(3))
    for handle, operation in (
        (one, lambda repeated: change_operations.delete(sql, one.id, None, repeated=repeated)),
        (one, lambda repeated: change_operations.restore(sql, one.id, repeated=repeated)),
        (one, lambda repeated: change_operations.purge(sql, one.id, repeated=repeated)),
        (two, lambda repeated: change_operations.mark(sql, two.id, "failed", None, "x", registry, limit=9, repeated=repeated)),
        (
            three,
            lambda repeated: change_operations.mark(sql, three.id, "succeeded", None, "x", registry, limit=9, repeated=repeated),
        ),
    ):
        for repeated in (False, True):
            with queue._connection() as connection, connection.transaction():
                run(connection, operation(repeated))  # type: ignore[no-untyped-call]
        with pytest.raises((WrongStatus, TaskNotFound)), queue._connection() as connection, connection.transaction():
            run(connection, operation(False))  # type: ignore[no-untyped-call]
        assert handle.status() is not Status.READY or handle is one


def test_no_column_of_a_task_is_lost_when_it_moves_or_comes_back() -> None:
    """A column that is added belongs into these statements, or into the lists of what each renews."""
    renewed = {
        "move": {"runner_id"},
        "restore": {"updated_at", "runner_id", "cancel_requested_at", "cancel_reason", "blocked_on"},
        "dead_retry": {"updated_at", "runner_id", "cancel_requested_at", "cancel_reason", "blocked_on"}
        | {"maturity_at", "expires_at", "attempt", "crashes"},
    }
    for name, others in renewed.items():
        inserted = re.search(r"INSERT INTO \S+\.task \((.*?)\)", getattr(NOWHERE._sql, name).text, re.DOTALL)
        assert inserted is not None
        named = set(re.findall(r"\w+", inserted[1]))
        assert named | others == {column.name for column in TaskRow.__table__.columns}, name
        assert not named & others, name


# ── copies ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_copy_is_a_new_task_and_each_names_the_other(queue: Queue, connection: Row) -> None:
    original = queue.enqueue(
        Sole(key=1, text="bad"), queue="mail", priority=7, tags=["a"], headers={"h": "1"}, timeout=timedelta(seconds=3),
        idempotency_key="order",
    )  # fmt: skip
    with pytest.raises(WrongStatus, match="has not ended"):
        queue.requeue(original)
    queue.mark(original, "failed")
    with pytest.raises(PayloadError, match="does not validate"):
        queue.requeue(original, payload={"key": "x"})
    with pytest.raises(ConfigurationError, match="no option 'colour'"):
        queue.requeue(original, colour="red")  # type: ignore[call-arg]
    first = queue.requeue(original, payload={"key": 2, "text": "good"}, retry=Retry(max_attempts=4))
    second = queue.requeue(
        original.id, delay=SOON, priority=9, queue="other", tags=["b"], headers={}, timeout=timedelta(seconds=8)
    )
    assert first.created
    assert first.id != original.id
    row = stored(connection, first.id)
    assert (row["queue"], row["priority"], row["tags"], row["headers"]) == ("mail", 7, ["a"], {"h": "1"})
    assert (row["payload"], row["options"]["timeout"], row["options"]["retry"]["max_attempts"]) == (
        {"key": 2, "text": "good"},
        3.0,
        4,
    )
    row = stored(connection, second.id)
    assert (row["queue"], row["priority"], row["tags"], row["headers"], row["options"]) == (
        "other",
        9,
        ["b"],
        {},
        {"timeout": 8.0},
    )
    assert (row["status"], row["payload"]["text"]) == ("scheduled", "bad")
    records = [queue.get(handle) for handle in (original, first)]
    assert [record and record.lineage.get("copies") for record in records] == [[str(first.id), str(second.id)], None]
    assert records[1] is not None
    assert records[1].lineage == {"copied_from": {"id": str(original.id), "queue": "mail"}}
    assert queue.enqueue(Sole(key=5), queue="mail", idempotency_key="order").id == original.id  # the key still names the original

    # A unique key is held by one task, copies included: its handle comes back, and no copy is noted.
    again = queue.requeue(original, payload={"key": 2})
    assert (again.id, again.created) == (first.id, False)
    queue.dead.retry(original)
    record = queue.get(original)
    assert record is not None
    assert record.lineage["copies"] == [str(first.id), str(second.id)]
    assert record.lineage["retries"]


def test_a_copy_outlives_the_history_of_its_original_and_joins_a_transaction(
    queue: Queue, stranger: Queue, connection: Row, migrated_database: str
) -> None:
    original = queue.enqueue(Note(name="first"))
    queue.mark(original, "succeeded", result=1)
    with psycopg.connect(migrated_database) as own:
        lost = queue.requeue(original, connection=own)
        assert lost.status() is None
        own.rollback()
    record = queue.get(original)
    assert record is not None
    assert "copies" not in record.lineage
    copy = stranger.requeue(original.id, payload={"name": "second", "more": 1}, tags=["t"], timeout=timedelta(seconds=4))
    plain = stranger.requeue(original.id)
    for option in ({"unique": True}, {"idempotency_key": "k"}):
        with pytest.raises(ConfigurationError, match="needs the class of 'note'"):
            stranger.requeue(original.id, **option)
    assert stored(connection, copy.id)["payload"] == {"name": "second", "more": 1}
    assert stored(connection, plain.id)["payload"] == {"name": "first"}
    queue.delete(original, purge=True)
    record = queue.get(copy)
    assert record is not None
    assert record.lineage["copied_from"]["id"] == str(original.id)
    with pytest.raises(TaskNotFound):
        queue.requeue(original)


def test_an_original_remembers_its_last_hundred_copies_each_once(queue: Queue, connection: Row) -> None:
    original = brought(queue, connection, Status.SUCCEEDED)
    ids = [uuid.UUID(int=number) for number in range(1, 105)]
    for id in [*ids, ids[-1]]:
        link = queue._sql.link_copy(queue="default", id=id, original_queue="default", original_id=original.id)
        connection.execute(link.statement.text, link.parameters)
    record = queue.get(original)
    assert record is not None
    assert record.lineage["copies"] == [str(id) for id in ids[4:]]


async def test_the_async_client_does_the_same(async_queue: AsyncQueue, migrated_database: str) -> None:
    handle = await async_queue.enqueue(Note())
    assert (await async_queue.update(handle, priority=7)).priority == 7
    await async_queue.delete(handle, "why")
    assert (await async_queue.restore(handle)).id == handle.id
    await async_queue.mark(handle, "succeeded", result=5)
    assert await handle.result(timeout=1) == 5
    copy = await async_queue.requeue(handle, payload=Note(name="copy"))
    async with await psycopg.AsyncConnection.connect(migrated_database) as own:
        joined = await async_queue.requeue(handle, connection=own)
    assert await joined.status() is await copy.status() is Status.READY
    await async_queue.delete(copy, purge=True)
    assert await copy.status() is None
    with pytest.raises(TaskFinished):
        await async_queue.update(handle, priority=8)
    with pytest.raises(ConfigurationError):
        await async_queue.mark(handle, "done")  # type: ignore[arg-type]
