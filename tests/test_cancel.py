"""Cancelling: a waiting task at once, a running one by asking, many by what they have in common."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, ConfigurationError, Queue, Task, TaskCancelled, TaskNotFound, task
from pgqueue.database import run
from pgqueue.operations import CANCEL_BATCH, cancel
from pgqueue.settings import Settings
from tests.conftest import wait_until

NOWHERE = Queue("postgresql://127.0.0.1:1/nowhere")


class Note(Task):
    async def run(self) -> None: ...


class Other(Task):
    async def run(self) -> None: ...


@pytest.fixture(autouse=True)
def types() -> None:
    task(Note)
    task(Other)


def _start(connection: psycopg.Connection[Any]) -> None:
    """As a claim leaves a row."""
    connection.execute(
        """UPDATE pgqueue.task SET status = 'running', attempt = 1, runner_id = gen_random_uuid(),
        claim_id = gen_random_uuid(), claimed_at = now()"""
    )


@pytest.mark.parametrize("options", [{}, {"delay": timedelta(hours=1)}])
def test_a_waiting_task_is_cancelled_at_once(queue: Queue, options: Any):
    handle = queue.enqueue(Note(), tags=["a"], headers={"k": "v"}, **options)
    assert handle.cancel("not needed") is True
    record = queue.get(handle)
    assert record is not None
    assert (record.status, record.reason, record.tags, record.headers) == ("cancelled", "not needed", ("a",), {"k": "v"})
    assert record.finished_at is not None
    with pytest.raises(TaskCancelled, match=r"note .* was cancelled: not needed") as refusal:
        handle.result(timeout=0)
    assert refusal.value.error == "not needed"


def test_a_finished_task_is_not_cancelled(queue: Queue):
    handle = queue.enqueue(Note())
    assert handle.cancel() is True
    assert handle.cancel() is False
    assert queue.cancel(handle.id) is False
    assert queue.cancel(str(handle.id)) is False


def test_a_dead_task_is_not_cancelled(queue: Queue, connection: psycopg.Connection[Any]):
    handle = queue.enqueue(Note())
    connection.execute(
        """WITH ended AS (DELETE FROM pgqueue.task RETURNING *)
        INSERT INTO pgqueue.dead_task (queue, id, type, priority, payload, maturity_at, created_at, finished_at, attempt, crashes)
        SELECT queue, id, type, priority, payload, maturity_at, created_at, now(), 1, 0 FROM ended"""
    )
    assert handle.cancel() is False
    assert handle.status() == "dead"


def test_an_unknown_task_is_said_to_be_unknown(queue: Queue):
    unknown = uuid.uuid4()
    for wrong in (unknown, str(unknown)):
        with pytest.raises(TaskNotFound, match=str(unknown)):
            queue.cancel(wrong)


@pytest.mark.parametrize("wrong", ["nonsense", 5, None, Note()])
def test_what_is_no_id_is_refused(wrong: Any):
    for call in (NOWHERE.cancel, NOWHERE.get, NOWHERE.attempts):
        with pytest.raises(ConfigurationError, match="is no task id"):
            call(wrong)


@pytest.mark.parametrize("reason", ["\0", "\ud800", 5, "x" * 10_001])
def test_a_reason_that_cannot_be_stored_is_refused(reason: Any):
    for call in (lambda: NOWHERE.cancel(uuid.uuid4(), reason), lambda: NOWHERE.cancel_all(reason=reason)):
        with pytest.raises(ConfigurationError, match="reason"):
            call()


def test_a_running_task_is_asked(queue: Queue, connection: psycopg.Connection[Any]):
    handle = queue.enqueue(Note())
    _start(connection)
    assert handle.cancel() is True
    assert handle.status() == "running"
    asked = "SELECT cancel_requested_at IS NOT NULL, cancel_reason FROM pgqueue.task"
    assert connection.execute(asked).fetchone() == (True, None)
    for reason, kept in (("wrong address", "wrong address"), (None, "wrong address"), ("wrong again", "wrong again")):
        assert handle.cancel(reason) is True
        assert connection.execute(asked).fetchone() == (True, kept)


def test_a_cancel_that_waits_for_a_claim_asks_the_runner_then(
    queue: Queue, connection: psycopg.Connection[Any], migrated_database: str
):
    handle = queue.enqueue(Note())
    outcome: list[bool] = []
    with psycopg.connect(migrated_database) as claiming:
        _start(claiming)
        cancelling = threading.Thread(target=lambda: outcome.append(handle.cancel()))
        cancelling.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        wait_until(lambda: connection.execute(waiting, (claiming.info.backend_pid,)).fetchone())
        claiming.commit()
        cancelling.join(20)
    assert outcome == [True]
    assert connection.execute("SELECT status::text, cancel_requested_at IS NOT NULL FROM pgqueue.task").fetchone() == (
        "running",
        True,
    )


def test_a_claim_loses_against_a_cancel_that_came_first(
    queue: Queue, connection: psycopg.Connection[Any], migrated_database: str
):
    handle = queue.enqueue(Note())
    with psycopg.connect(migrated_database) as cancelling:
        assert run(cancelling, cancel(queue._sql, "default", handle.id, None))
        assert connection.execute("SELECT id FROM pgqueue.task FOR UPDATE SKIP LOCKED").fetchone() is None
    assert handle.status() == "cancelled"


def test_a_cancel_repeated_after_a_lost_reply_is_still_a_yes(queue: Queue, connection: psycopg.Connection[Any]):
    handle = queue.enqueue(Note())
    assert handle.cancel()
    assert run(connection, cancel(queue._sql, "default", handle.id, None, repeated=True)) is True
    assert run(connection, cancel(queue._sql, "default", handle.id, None)) is False


def test_filters_choose_what_is_cancelled(queue: Queue):
    kept = [queue.enqueue(Other()), queue.enqueue(Note(), queue="mail"), queue.enqueue(Note(), delay=timedelta(hours=1))]
    gone = [queue.enqueue(Note(), tags=["a", "b"]) for _ in range(3)]
    assert queue.cancel_all(type="NOTE", queue="default", tags=["b", "a"], status="ready", reason="tidy") == 3
    assert {handle.status() for handle in gone} == {"cancelled"}
    assert [handle.status() for handle in kept] == ["ready", "ready", "scheduled"]
    assert queue.cancel_all(type="unheard-of") == 0
    assert queue.cancel_all(tags=["c"]) == 0
    assert queue.cancel_all(status=[]) == 0
    assert queue.cancel_all(status=["scheduled", "ready"], queue="default") == 2
    assert queue.cancel_all() == 1


def test_running_tasks_are_asked_and_counted_once(queue: Queue, connection: psycopg.Connection[Any]):
    queue.enqueue_many([Note()] * 5)
    _start(connection)
    queue.enqueue_many([Note()] * 3, queue="mail")
    assert queue.cancel_all(status="ready") == 3
    assert queue.cancel_all() == 5
    assert queue.cancel_all() == 0
    assert connection.execute("SELECT count(*) FROM pgqueue.task WHERE cancel_requested_at IS NOT NULL").fetchone() == (5,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": "succeeded"}, "cancel_all takes unfinished statuses"),
        ({"status": "gone"}, "a status is one of scheduled, blocked, ready"),
        ({"status": 5}, "a status is one of"),
        ({"queue": ""}, "queue takes a name"),
        ({"queue": "a\0"}, "control character"),
        ({"type": "a\0"}, "control character"),
        ({"type": 5}, "type takes a name"),
        ({"tags": "a"}, "tags takes a list"),
        ({"tags": ["\ud800"]}, "surrogate"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(options: Any, message: str):
    with pytest.raises(ConfigurationError, match=message):
        NOWHERE.cancel_all(**options)


def test_many_are_cancelled_in_batches_and_those_that_others_hold_are_left(queue: Queue, migrated_database: str):
    count = 2 * CANCEL_BATCH + 500
    queue.enqueue_many([Note()] * count)
    with psycopg.connect(migrated_database) as claiming:
        claiming.execute("SELECT id FROM pgqueue.task ORDER BY id LIMIT 10 FOR UPDATE")
        assert queue.cancel_all() == count - 10
    assert queue.depth() == 10
    assert queue.cancel_all() == 10
    assert queue.depth() == 0


def test_tasks_that_come_during_the_call_are_left(queue: Queue, connection: psycopg.Connection[Any]):
    queue.enqueue_many([Note()] * 5)
    connection.execute(
        "UPDATE pgqueue.task SET created_at = now() + interval '1 hour' WHERE id = (SELECT max(id::text)::uuid FROM pgqueue.task)"
    )
    assert queue.cancel_all() == 4
    assert queue.depth() == 1


def test_cancelling_races_claiming_and_every_task_ends_up_with_one_of_them(migrated_database: str, settings: Settings):
    """Three claimants and a bulk cancel at once: nothing is lost, nothing is both."""
    count = 3_000
    with Queue(migrated_database, settings=settings) as queue, psycopg.connect(migrated_database, autocommit=True) as observer:
        queue.enqueue_many([Note()] * count)
        go = threading.Event()

        def claim() -> None:
            with psycopg.connect(migrated_database, autocommit=True) as claiming:
                go.wait(20)
                while claiming.execute(
                    """UPDATE pgqueue.task SET status = 'running', runner_id = gen_random_uuid(), claim_id = gen_random_uuid(),
                    claimed_at = now() WHERE id = ANY(ARRAY(SELECT id FROM pgqueue.task WHERE status = 'ready'
                    ORDER BY maturity_at, id LIMIT 20 FOR UPDATE SKIP LOCKED))"""
                ).rowcount:
                    pass

        claimants = [threading.Thread(target=claim) for _ in range(3)]
        for claimant in claimants:
            claimant.start()
        go.set()
        cancelled = queue.cancel_all(status=["ready", "scheduled"])
        for claimant in claimants:
            claimant.join(40)
        counted = observer.execute(
            "SELECT (SELECT count(*) FROM pgqueue.task WHERE status = 'running'), (SELECT count(*) FROM pgqueue.history)"
        ).fetchone()
    assert counted == (count - cancelled, cancelled)


async def test_the_async_client_does_the_same(async_queue: AsyncQueue):
    handle = await async_queue.enqueue(Note())
    assert await async_queue.cancel(handle.id, "why") is True
    assert await handle.cancel() is False
    await async_queue.enqueue_many([Note()] * 5)
    assert await async_queue.cancel_all(type="note") == 5
    with pytest.raises(TaskNotFound):
        await async_queue.cancel(uuid.uuid4())
