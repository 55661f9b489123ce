"""Reading: one task wherever it lives, lists page by page, depth and counts."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncQueue, ConfigurationError, Queue, Retry, Status, Task, task
from pgqueue.database import Parameters
from pgqueue.states import FINISHED

NOWHERE = Queue("postgresql://127.0.0.1:1/nowhere")
REASONS = {Status.DEAD: "broke", Status.BLOCKED: "no live runner of its queue knows its type"}


class Note(Task[int]):
    n: int = 0

    async def run(self) -> int:
        return self.n


class Failing(Task):
    async def run(self) -> None:
        raise LookupError(f"no {self.tries}")


@pytest.fixture(autouse=True)
def types() -> None:
    task(Note)
    task(retry=Retry(max_attempts=2, initial=timedelta(0)))(Failing)


@pytest.fixture
def zoo(queue: Queue, connection: psycopg.Connection[Any]) -> dict[Status, set[uuid.UUID]]:
    """Three tasks of every status, in two queues, made in a mixed order."""
    ids: dict[Status, set[uuid.UUID]] = {status: set() for status in Status}
    for number in range(3):
        for status in Status:
            handle = queue.enqueue(
                Note(n=number), queue="mail" if number == 2 else None, tags=["even"] if number % 2 == 0 else None
            )
            ids[status].add(handle.id)
            _put(connection, handle.id, status)
    return ids


def _put(connection: psycopg.Connection[Any], id: uuid.UUID, status: Status) -> None:
    """Bring a ready task to where it shall stand, as the engine would."""
    if status is Status.RUNNING:
        connection.execute(
            """UPDATE pgqueue.task SET status = 'running', runner_id = gen_random_uuid(), claim_id = gen_random_uuid(),
            claimed_at = now() WHERE id = %s""",
            (id,),
        )
    elif status in FINISHED:
        table, names, values = ("dead_task", "error", "'broke'") if status is Status.DEAD else (
            "history", "status, result, reason", f"'{status}', '5', 'so'",
        )  # fmt: skip
        connection.execute(
            f"""WITH ended AS (DELETE FROM pgqueue.task WHERE id = %s RETURNING *)
            INSERT INTO pgqueue.{table}
            (queue, id, type, priority, payload, maturity_at, created_at, finished_at, attempt, crashes, tags, {names})
            SELECT queue, id, type, priority, payload, maturity_at, created_at, now(), 1, 0, tags, {values} FROM ended""",
            (id,),
        )
    else:
        blocked_on = "type" if status is Status.BLOCKED else None
        connection.execute("UPDATE pgqueue.task SET status = %s, blocked_on = %s WHERE id = %s", (status.value, blocked_on, id))


def test_a_task_is_found_wherever_it_lives(queue: Queue, zoo: dict[Status, set[uuid.UUID]]):
    for status, ids in zoo.items():
        for id in ids:
            record = queue.get(id)
            assert record is not None
            assert (record.id, record.status, record.type) == (id, status, "note")
            assert queue.get(str(id)) == record
            assert record.reason == REASONS.get(status, "so" if status in FINISHED else None)
            assert record.result == (5 if status in FINISHED - {Status.DEAD} else None)
            assert (record.finished_at is None) is (status not in FINISHED)
            assert json.loads(json.dumps(record.as_json()))["status"] == status
    assert queue.get(uuid.uuid4()) is None


def test_a_list_has_everything_newest_first(queue: Queue, zoo: dict[Status, set[uuid.UUID]]):
    page = queue.list()
    assert page.cursor is None
    assert [record.id for record in page] == sorted(set().union(*zoo.values()), reverse=True)


def test_pages_of_any_size_are_complete_without_repetition(queue: Queue, zoo: dict[Status, set[uuid.UUID]]):
    for limit in (1, 2, 5, 26, 27):
        page = queue.list(limit=limit)
        found = [record.id for record in page]
        while page.cursor is not None:
            page = queue.list(limit=limit, cursor=page.cursor)
            assert 0 < len(page) <= limit
            found.extend(record.id for record in page)
        assert found == sorted(set().union(*zoo.values()), reverse=True)


async def test_pages_stay_complete_while_tasks_come_and_move(async_queue: AsyncQueue, drain: Any):
    first = await async_queue.enqueue_many([Note(n=n) for n in range(20)])
    page = await async_queue.list(limit=10)
    await drain()
    await async_queue.enqueue_many([Note()] * 5)
    rest = await async_queue.list(limit=100, cursor=page.cursor)
    assert sorted([*(record.id for record in page), *(record.id for record in rest)]) == sorted(handle.id for handle in first)


def test_filters_choose_and_combine(queue: Queue, zoo: dict[Status, set[uuid.UUID]]):
    for status, ids in zoo.items():
        assert {record.id for record in queue.list(status=status)} == ids
        assert {record.id for record in queue.list(status=str(status), type="NOTE")} == ids
        assert {record.queue for record in queue.list(status=status, queue="mail")} == {"mail"}
    some = {record.id for record in queue.list(status=["ready", "dead", "succeeded"])}
    assert some == zoo[Status.READY] | zoo[Status.DEAD] | zoo[Status.SUCCEEDED]
    assert Counter(record.queue for record in queue.list(tags=["even"])) == {"default": 9, "mail": 9}
    assert len(queue.list(queue="mail", tags=["even"], type="note", status="ready")) == 1
    for nothing in ({"type": "other"}, {"queue": "other"}, {"tags": ["even", "odd"]}, {"status": []}):
        assert len(queue.list(**nothing)) == 0


def test_created_after_is_an_instant_of_the_databases_clock(queue: Queue, connection: psycopg.Connection[Any]):
    old, new = queue.enqueue(Note()), queue.enqueue(Note())
    connection.execute("UPDATE pgqueue.task SET created_at = now() - interval '1 day' WHERE id = %s", (old.id,))
    since = datetime.now(UTC) - timedelta(hours=12)
    assert [record.id for record in queue.list(created_after=since)] == [new.id]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit takes 1 to 1000"),
        ({"limit": 1001}, "limit takes"),
        ({"limit": "5"}, "limit takes"),
        ({"limit": True}, "limit takes"),
        ({"cursor": "next"}, "is no task id"),
        ({"status": "gone"}, "a status is one of"),
        ({"created_after": datetime(2030, 1, 1)}, "is naive"),  # noqa: DTZ001
        ({"queue": "x" * 201}, "queue takes a name"),
        ({"type": "\0"}, "control character"),
        ({"tags": "a"}, "tags takes a list"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(options: Any, message: str):
    with pytest.raises(ConfigurationError, match=message):
        NOWHERE.list(**options)


def test_depth_counts_what_is_ready(queue: Queue, zoo: dict[Status, set[uuid.UUID]]):
    assert queue.depth() == 3
    assert queue.depth("mail") == 1
    assert queue.depth("nowhere") == 0
    with pytest.raises(ConfigurationError, match="queue takes a name"):
        queue.depth("")


def test_counts_are_of_unfinished_and_dead_tasks(queue: Queue, zoo: dict[Status, set[uuid.UUID]]):
    each = dict.fromkeys((Status.SCHEDULED, Status.BLOCKED, Status.READY, Status.RUNNING, Status.DEAD), 1)
    twice = dict.fromkeys(each, 2)
    assert queue.counts() == {"default": twice, "mail": each}
    assert queue.counts("mail") == {"mail": each}
    assert queue.counts("nowhere") == {}


async def test_failed_attempts_are_listed_first_to_last(async_queue: AsyncQueue, drain: Any):
    handle = await async_queue.enqueue(Failing())
    await drain()
    attempts = await async_queue.attempts(handle)
    assert [(one.attempt, one.error_type, one.error) for one in attempts] == [
        (1, "LookupError", "no 0"),
        (2, "LookupError", "no 1"),
    ]
    assert all("in run" in (one.traceback or "") for one in attempts)
    assert json.dumps(attempts[0].as_json())
    assert await async_queue.attempts(uuid.uuid4()) == []


@pytest.mark.parametrize("payload", ['{"a": 1e5000}', '{"a": ' + "[" * 1500 + "]" * 1500 + "}"])
def test_a_payload_that_python_cannot_read_is_shown_as_text(queue: Queue, connection: psycopg.Connection[Any], payload: str):
    connection.execute("INSERT INTO pgqueue.task (type, payload) VALUES ('note', %s)", (payload,))
    record = queue.list().tasks[0]
    assert record.payload is not None
    assert record.as_json()


def test_reading_history_uses_an_index_however_long_it_is(queue: Queue, connection: psycopg.Connection[Any]):
    connection.execute(
        """INSERT INTO pgqueue.history
        (queue, id, type, status, priority, payload, maturity_at, created_at, finished_at, attempt, crashes)
        SELECT 'default', pgqueue.new_id(), 'note', 'succeeded', 100, '{}', now(), now(), now(), 1, 0
        FROM generate_series(1, 20000)"""
    )
    connection.execute("ANALYZE pgqueue.history")
    partition = connection.execute("SELECT DISTINCT tableoid::regclass::text FROM pgqueue.history").fetchone()
    assert partition is not None
    for call in (
        queue._sql.get(id=uuid.uuid4()),
        queue._sql.outcome(queue="default", id=uuid.uuid4()),
        queue._sql.ended(ids=[uuid.uuid4()]),
        queue._sql.list(limit=50),
        queue._sql.list(limit=50, queue="default", before=uuid.uuid4()),
        queue._sql.counts(),
    ):
        rows = connection.execute(f"EXPLAIN {call.statement.text}", Parameters(call.parameters)).fetchall()
        plan = "\n".join(row[0] for row in rows)
        assert f"Seq Scan on {partition[0].removeprefix('pgqueue.')}" not in plan, plan
