"""Enqueueing one task: what is stored, what is refused, and what a lost connection does to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue import (
    AsyncQueue,
    ConfigurationError,
    DatabaseUnavailable,
    PayloadError,
    Queue,
    Retry,
    Task,
    Unique,
    UnknownTask,
    registry,
    task,
)
from pgqueue.database import run
from pgqueue.operations import AlreadyEnqueued, enqueue
from pgqueue.preparation import prepare
from pgqueue.registry import Registry
from pgqueue.settings import Settings
from tests.conftest import wait_until

PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime(2999, 1, 1, tzinfo=UTC)
NOWHERE = Queue("postgresql://127.0.0.1:1/nowhere")
"""A client that would fail if it sent anything."""


@pytest.fixture(autouse=True)
def note() -> type[Any]:
    return task(Note)


class Note(Task[str]):
    """Write a note."""

    text: str = "hello"

    async def run(self) -> str:
        return self.text


def _row(connection: psycopg.Connection[Any], columns: str) -> tuple[Any, ...]:
    row = connection.execute(f"SELECT {columns} FROM pgqueue.task").fetchone()
    assert row is not None
    return row


def test_a_task_is_ready_at_once_with_what_its_type_says(queue: Queue, connection: psycopg.Connection[Any]):
    task(queue="mail", priority=7, tags=["b", "a"])(Note)
    handle = queue.enqueue(Note(text="x"))
    assert handle.created
    assert handle.queue_name == "mail"
    assert handle.status() == "ready"
    assert _row(connection, "id, queue, type, status::text, priority, payload, tags, unique_key, headers, options, attempt") == (
        handle.id, "mail", "note", "ready", 7, {"text": "x"}, ["a", "b"], None, None, None, 0,
    )  # fmt: skip
    assert _row(connection, "maturity_at <= clock_timestamp() AND created_at <= clock_timestamp() AND expires_at IS NULL") == (
        True,
    )


def test_one_enqueue_overrides_its_type(queue: Queue, connection: psycopg.Connection[Any]):
    task(queue="mail", priority=7, tags=["a"], expires=timedelta(hours=2))(Note)
    queue.enqueue(
        Note(),
        queue="post",
        priority=-3,
        tags=("c", "a"),
        headers={"traceparent": "00-é\u2028"},
        timeout=timedelta(seconds=2.5),
        retry=Retry(max_attempts=3, backoff="linear"),
        expires=timedelta(minutes=1),
    )
    queued, priority, tags, headers, options, expires = _row(
        connection, "queue, priority, tags, headers, options, expires_at - maturity_at"
    )
    assert (queued, priority, tags, headers) == ("post", -3, ["a", "c"], {"traceparent": "00-é\u2028"})
    assert expires == timedelta(minutes=1)
    assert options["timeout"] == 2.5
    assert Retry.from_json(options["retry"]) == Retry(max_attempts=3, backoff="linear", jitter=(0.1, 0.2))


def test_every_priority_in_the_range_is_stored(queue: Queue):
    for priority in (-32_767, -1, 0, 32_767):
        record = queue.get(queue.enqueue(Note(), priority=priority))
        assert record is not None
        assert record.priority == priority


def test_a_task_waits_for_its_maturity(queue: Queue):
    expected: list[tuple[dict[str, Any], str]] = [
        ({"delay": timedelta(0)}, "ready"),
        ({"delay": timedelta(hours=1)}, "scheduled"),
        ({"delay": timedelta(days=365_000)}, "scheduled"),
        ({"at": PAST}, "ready"),
        ({"at": FUTURE}, "scheduled"),
        ({"at": datetime(2, 1, 2, tzinfo=UTC)}, "ready"),
        ({"at": datetime(9998, 12, 31, 11, tzinfo=timezone(timedelta(hours=-12)))}, "scheduled"),
        ({"delay": None, "at": None, "expires": None}, "ready"),
    ]
    for options, status in expected:
        record = queue.get(queue.enqueue(Note(), **options))
        assert record is not None
        assert record.status == status
        if options.get("at"):
            assert record.maturity_at == options["at"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 5}, "delay takes a timedelta"),
        ({"delay": timedelta(seconds=-1)}, "delay takes a timedelta from 0"),
        ({"delay": timedelta(days=365_001)}, "delay takes a timedelta from 0"),
        ({"at": datetime(2030, 1, 1)}, "is naive: add its timezone"),  # noqa: DTZ001
        ({"at": "2030-01-01"}, "at takes an aware datetime"),
        ({"at": datetime(1, 1, 1, tzinfo=UTC)}, "outside the years 2 to 9998"),
        ({"at": datetime(2, 1, 1, tzinfo=timezone(timedelta(hours=14)))}, "outside the years"),
        ({"at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))}, "outside the years"),
        ({"at": datetime.max.replace(tzinfo=UTC)}, "outside the years"),
        ({"at": datetime(9998, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))}, "outside the years"),
        ({"at": FUTURE, "delay": timedelta(1)}, "both delay= and at="),
        ({"expires": timedelta(0)}, "expires takes a timedelta above zero"),
        ({"expires": 5}, "expires takes"),
        ({"expires": datetime(2030, 1, 1)}, "is naive"),  # noqa: DTZ001
        ({"expires": timedelta(hours=1), "delay": timedelta(hours=2)}, "would expire before it may start"),
        ({"expires": PAST, "at": FUTURE}, "would expire before it may start"),
        ({"priority": -32_768}, "priority takes a whole number"),
        ({"priority": 32_768}, "priority takes a whole number"),
        ({"priority": True}, "priority takes a whole number"),
        ({"queue": ""}, "queue takes a name"),
        ({"queue": "x" * 10_000}, "one of 10000 characters"),
        ({"queue": "a\0"}, "control character"),
        ({"queue": "a\nb"}, "control character"),
        ({"queue": "\udc80"}, "surrogate"),
        ({"queue": 5}, "queue takes a name"),
        ({"timeout": timedelta(0)}, "timeout takes a timedelta above zero"),
        ({"timeout": 30}, "timeout takes a timedelta"),
        ({"retry": 3}, "retry takes Retry"),
        ({"retry": Retry(on=OSError)}, "on= and unless= cannot be"),
        ({"retry": Retry(unless=lambda error: True)}, "on= and unless= cannot be"),
        ({"unique": "yes"}, "unique takes True"),
        ({"unique": Unique(by=("nobody",))}, "names 'nobody'"),
        ({"idempotency_key": ""}, "must give a string that is not empty"),
        ({"idempotency_key": 5}, "must give a string"),
        ({"tags": "billing"}, "tags takes a list"),
        ({"tags": [None]}, "a tag takes a name"),
        ({"tags": [str(n) for n in range(51)]}, "at most 50"),
        ({"headers": ["a"]}, "headers takes a mapping"),
        ({"headers": {"a": 1}}, "headers takes a mapping"),
        ({"headers": {str(n): "" for n in range(51)}}, "at most 50 entries"),
        ({"prioirty": 5}, "enqueue has no option 'prioirty'"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_sent(options: Any, message: str):
    with pytest.raises(ConfigurationError, match=message):
        NOWHERE.enqueue(Note(), **options)


@pytest.mark.parametrize("headers", [{"a": "\0"}, {"\ud800": ""}, {"a": "x" * 70_000}])
def test_headers_that_cannot_be_stored_are_refused(headers: dict[str, str]):
    with pytest.raises(PayloadError, match="headers"):
        NOWHERE.enqueue(Note(), headers=headers)


@pytest.mark.parametrize("wrong", [None, 5, "note", Note, {"text": "x"}])
def test_what_is_no_task_is_refused(wrong: Any):
    with pytest.raises(ConfigurationError, match="enqueue takes an instance of a @task class"):
        NOWHERE.enqueue(wrong)


NAMES = ['it\'s "quoted"', "späte Post", "邮件", "👩\u200d💻", "a%sb%(x)s", "{schema}", "\\", "NULL", "x" * 200, "💥" * 200]


def test_queues_and_types_may_be_called_almost_anything(queue: Queue):
    for number, name in enumerate(NAMES):
        named = task(name=name, queue=name)(type(f"Named{number}", (Note,), {"__module__": __name__}))
        handles = [queue.enqueue(named(), tags=[name], unique=True), *queue.enqueue_many([named()] * 301, tags=[name])]
        for handle in handles[:2]:
            record = queue.get(handle)
            assert record is not None
            assert (record.queue, record.type, record.tags) == (name, name, (name,))
        assert queue.depth(name) == 302
        assert len(queue.list(queue=name, type=name, tags=[name], limit=1000)) == 302
        assert queue.cancel_all(queue=name, type=name, tags=[name]) == 302


def test_by_name_the_type_is_found_and_the_values_are_checked(queue: Queue):
    for name in ("note", "Note", "NOTE", "no-te", "n_o_t_e"):
        record = queue.get(queue.enqueue_by_name(name, {"text": name}))
        assert record is not None
        assert (record.type, record.payload) == ("note", {"text": name})
    assert queue.enqueue_by_name("note", priority=3).created
    with pytest.raises(UnknownTask, match="Did you mean note"):
        queue.enqueue_by_name("noet")
    with pytest.raises(PayloadError, match="extra: Extra inputs are not permitted"):
        queue.enqueue_by_name("note", {"extra": 1})
    with pytest.raises(PayloadError, match="text: Input should be a valid string"):
        queue.enqueue_by_name("note", {"text": 1})
    assert queue.depth() == 6


async def test_the_async_client_does_the_same(async_queue: AsyncQueue):
    handle = await async_queue.enqueue(Note(text="x"), delay=timedelta(hours=1), tags=["a"])
    assert handle.created
    assert await handle.status() == "scheduled"
    other = await async_queue.enqueue_by_name("NOTE", {"text": "y"})
    assert await async_queue.depth() == 1
    assert [record.id for record in await async_queue.list()] == [other.id, handle.id]
    assert await handle.cancel()
    assert await handle.status() == "cancelled"


def test_a_row_put_in_by_hand_needs_nothing_but_a_type(queue: Queue, connection: psycopg.Connection[Any]):
    connection.execute("INSERT INTO pgqueue.task (type, payload) VALUES ('note', '{}')")
    page = queue.list()
    assert [(record.type, record.status, record.priority, record.queue) for record in page] == [
        ("note", "scheduled", 100, "default")
    ]


# ── an enqueue whose connection dies ────────────────────────────────────────────────────────────────────────────────


def test_an_enqueue_survives_the_loss_of_every_pooled_connection(queue: Queue, connection: psycopg.Connection[Any]):
    queue.enqueue(Note())
    _kill_others(connection)
    assert queue.enqueue(Note()).created
    _kill_others(connection)
    assert queue.depth() == 2
    _kill_others(connection)
    assert len(queue.enqueue_many([Note()] * 2)) == 2
    _kill_others(connection)
    assert queue.cancel_all() == 4


async def test_an_async_enqueue_survives_the_loss_of_every_pooled_connection(
    async_queue: AsyncQueue, connection: psycopg.Connection[Any]
):
    await async_queue.enqueue(Note())
    _kill_others(connection)
    assert (await async_queue.enqueue(Note())).created
    _kill_others(connection)
    assert len(await async_queue.enqueue_many([Note()] * 301)) == 301
    assert await async_queue.depth() == 303


@pytest.mark.parametrize(
    ("options", "statement"),
    [
        ({}, b"INSERT INTO"),
        ({"unique": True}, b"INSERT INTO"),
        ({"idempotency_key": "k"}, b"INSERT INTO"),
        ({"idempotency_key": "k"}, b"COMMIT\0"),
        ({"unique": True, "idempotency_key": "k"}, b"COMMIT\0"),
    ],
)
def test_an_enqueue_whose_reply_is_lost_is_repeated_and_stored_once(
    migrated_database: str, settings: Settings, options: Any, statement: bytes
):
    """The server has carried the statement out and the client never hears of it."""
    with _swallowing_proxy(migrated_database) as (dsn, swallow), Queue(dsn, settings=settings, pool_size=1) as queue:
        queue.depth()
        swallow(statement)
        handle = queue.enqueue(Note(), **options)
        assert handle.created
        assert [record.id for record in queue.list()] == [handle.id]


def test_a_bulk_enqueue_whose_reply_is_lost_is_repeated_and_stored_once(migrated_database: str, settings: Settings):
    with _swallowing_proxy(migrated_database) as (dsn, swallow), Queue(dsn, settings=settings, pool_size=1) as queue:
        queue.depth()
        swallow(b"COMMIT\0")
        handles = queue.enqueue_many([Note()] * 400)
        assert queue.depth() == 400
        assert {record.id for record in queue.list(limit=1000)} == {handle.id for handle in handles}


def test_a_bulk_enqueue_with_keys_whose_reply_is_lost_is_not_repeated_but_said(migrated_database: str, settings: Settings):
    """Whose task stood for a duplicate may be gone by then; the caller's repetition finds the keys."""
    with _swallowing_proxy(migrated_database) as (dsn, swallow), Queue(dsn, settings=settings, pool_size=1) as queue:
        queue.depth()
        swallow(b"COMMIT\0")
        with pytest.raises(DatabaseUnavailable, match="PostgreSQL cannot be reached"):
            queue.enqueue_many([Note()], unique=True)
        assert [handle.created for handle in queue.enqueue_many([Note()], unique=True)] == [False]


@pytest.mark.parametrize("options", [{}, {"unique": True}, {"idempotency_key": "k"}])
@pytest.mark.parametrize("table", ["task", "history", "dead_task", "nowhere"])
def test_a_repeated_enqueue_finds_what_became_of_the_first(
    queue: Queue, connection: psycopg.Connection[Any], options: Any, table: str
):
    """The commit of the first is unknown: it may be stored, or have run and ended meanwhile, or never have happened."""
    request = prepare(Note(), options, queue.settings)
    if table != "nowhere":
        with connection.transaction():
            run(connection, enqueue(queue._sql, request))
    if table in ("history", "dead_task"):
        finished = "finished_at" if table == "dead_task" else "status, finished_at"
        values = "now()" if table == "dead_task" else "'succeeded', now()"
        connection.execute(
            f"""WITH ended AS (DELETE FROM pgqueue.task RETURNING *)
            INSERT INTO pgqueue.{table} (queue, id, type, priority, payload, maturity_at, created_at, attempt, crashes, {finished})
            SELECT queue, id, type, priority, payload, maturity_at, created_at, 1, 0, {values} FROM ended"""
        )
    try:
        with connection.transaction():
            inserted = run(connection, enqueue(queue._sql, request, repeated=True))
        assert inserted.created
        assert inserted.id == request.id
    except AlreadyEnqueued:
        assert table in ("history", "dead_task")
    count = connection.execute("SELECT count(*) FROM pgqueue.task").fetchone()
    assert count == (0 if table in ("history", "dead_task") else 1,)


def test_a_repeated_enqueue_waits_for_the_first_that_has_not_ended(queue: Queue, migrated_database: str):
    request = prepare(Note(), {}, queue.settings)
    with psycopg.connect(migrated_database) as first, psycopg.connect(migrated_database) as second:
        run(first, enqueue(queue._sql, request))
        outcome: list[Any] = []
        repetition = threading.Thread(target=lambda: outcome.append(run(second, enqueue(queue._sql, request, repeated=True))))
        repetition.start()
        wait_until(lambda: _is_waiting(first, second))
        first.commit()
        repetition.join(20)
        second.commit()
    assert [inserted.created for inserted in outcome] == [True]
    assert queue.depth() == 1


def _is_waiting(observer: psycopg.Connection[Any], observed: psycopg.Connection[Any]) -> bool:
    row = observer.execute("SELECT pg_blocking_pids(%s) <> '{}'", (observed.info.backend_pid,)).fetchone()
    return row is not None and row[0]


def _kill_others(connection: psycopg.Connection[Any]) -> None:
    """End every other session of this database, and wait until it is gone."""
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    pids = [row[0] for row in connection.execute(others)]
    for pid in pids:
        connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_until(lambda: not connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = ANY(%s)", (pids,)).fetchone())


@contextmanager
def _swallowing_proxy(dsn: str) -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A way to the server that can be told to cut a connection after the server has carried out a statement, reply unseen."""
    parts = conninfo_to_dict(dsn)
    listener = socket.create_server(("127.0.0.1", 0))
    trigger: list[bytes] = []
    threads: list[threading.Thread] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=_relay, args=(client, parts, trigger))
            thread.start()
            threads.append(thread)

    server = threading.Thread(target=serve)
    server.start()
    secret = f":{parts['password']}" if parts.get("password") else ""
    user = f"{parts['user']}{secret}@" if parts.get("user") else ""
    try:
        yield f"postgresql://{user}127.0.0.1:{listener.getsockname()[1]}/{parts['dbname']}", trigger.append
        assert not trigger, "the statement to swallow never came"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.join(10)
        for thread in threads:
            thread.join(10)


def _upstream(parts: dict[str, Any]) -> socket.socket:
    """A connection to the server itself, over TCP or the socket in its directory."""
    host, port = str(parts.get("host") or "127.0.0.1"), int(parts.get("port") or 5432)
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    upstream = socket.socket(socket.AF_UNIX)
    upstream.connect(f"{host}/.s.PGSQL.{port}")
    return upstream


def _relay(client: socket.socket, parts: dict[str, Any], trigger: list[bytes]) -> None:
    """Pass bytes on both ways; after a message that holds the trigger, read the server's reply, and hang up on the client."""
    upstream = _upstream(parts)
    doomed = threading.Event()

    def back() -> None:
        with client:
            while data := _received(upstream):
                if doomed.is_set():
                    return
                client.sendall(data)

    answers = threading.Thread(target=back)
    answers.start()
    with upstream:
        while data := _received(client):
            if trigger and trigger[0] in data:
                trigger.clear()
                doomed.set()
            upstream.sendall(data)
            if doomed.is_set():
                answers.join(10)
                break
        try:
            upstream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the server was quicker
    answers.join(10)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


def test_when_nobody_answers_it_is_said_within_bounded_time(settings: Settings):
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL cannot be reached: .*refused"):
        Queue(f"postgresql://nobody@127.0.0.1:{port}/none", settings=settings).enqueue(Note())
    assert time.monotonic() - began < 15


def test_the_registry_of_a_client_may_be_its_own(migrated_database: str, settings: Settings):
    with Queue(migrated_database, settings=settings, registry=Registry()) as queue:
        with pytest.raises(UnknownTask):
            queue.enqueue_by_name("note")
        assert queue.enqueue(Note()).created
    assert registry.get("note")
