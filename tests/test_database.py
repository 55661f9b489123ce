"""Ways to the database: what a DSN may look like, which schema, and errors that say what to do."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest

from pgqueue import AsyncQueue, ConfigurationError, DatabaseUnavailable, Queue, Task, task
from pgqueue.database import (
    AsyncConnection,
    Connection,
    DeadlineExceeded,
    Patience,
    connection_parameters,
    is_lost,
    normalise,
    shown,
)
from pgqueue.errors import SchemaError
from pgqueue.migrations import migrate
from pgqueue.settings import Settings
from tests.conftest import wait_until


class Note(Task):
    async def run(self) -> None: ...


@pytest.fixture(autouse=True)
def types() -> None:
    task(Note)


def test_every_way_to_write_a_dsn_leads_to_the_same_database(migrated_database: str, settings: Settings):
    parts = urlsplit(migrated_database)
    keywords = psycopg.conninfo.make_conninfo(migrated_database)
    forms = [
        migrated_database,
        urlunsplit(parts._replace(scheme="postgres")),
        urlunsplit(parts._replace(scheme="postgresql+psycopg")),
        urlunsplit(parts._replace(scheme="POSTGRESQL+asyncpg")),
        f"  {migrated_database}\n",
        keywords,
    ]
    for form in forms:
        with Queue(form, settings=settings) as queue:
            queue.enqueue(Note())
    with Queue(settings=settings.model_copy(update={"database_url": migrated_database})) as queue:
        assert queue.depth() == len(forms)


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("mysql://root@localhost/x", "starts with mysql://, but pgqueue runs on PostgreSQL"),
        ("sqlite:///x.db", "starts with sqlite://"),
        ("http+unix://x", "starts with http"),
        ("nonsense", "is not a PostgreSQL address"),
        ("postgresql://u:geheim%zz@h/d", "percent-encoded"),
        ("postgresql://h/d?colour=red", "colour"),
        ("host=x geheim", "is not a PostgreSQL address"),
        (5, "a DSN is text"),
    ],
)
def test_a_dsn_that_is_none_is_refused_in_one_line_without_its_password(dsn: Any, message: str, settings: Settings):
    with pytest.raises(ConfigurationError, match=message) as refusal:
        Queue(dsn, settings=settings).open()
    assert "geheim" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_password_may_hold_anything():
    assert normalise("host=h password=a://b") == "host=h password=a://b"
    assert normalise(f"postgresql://u:{quote('p@ss:/w%rd', safe='')}@h/d") == "postgresql://u:p%40ss%3A%2Fw%25rd@h/d"


def test_where_a_dsn_points_is_shown_without_the_password():
    assert shown("postgresql://me:secret@db.example:6000/tasks") == "tasks at db.example:6000"
    assert shown("dbname=tasks password=secret") == "tasks at localhost"
    assert "secret" not in shown("postgresql://me:secret@/tasks?host=/run/pg")


def test_what_the_dsn_says_about_a_connection_stays():
    chosen = connection_parameters("postgresql://h/d?application_name=mine&connect_timeout=3")
    assert "application_name" not in chosen
    assert "connect_timeout" not in chosen
    assert connection_parameters("postgresql://h/d")["application_name"] == "pgqueue"


@pytest.mark.parametrize("name", ['a"quoted"', "späte Post", "100%sure%%", "{schema}", "UPPER lower", "select", "ä" * 31])
def test_a_schema_may_be_called_almost_anything(empty_database: str, settings: Settings, name: str):
    migrate(empty_database, schema=name)
    with Queue(empty_database, schema=name, settings=settings) as queue:
        first = queue.enqueue(Note(), unique=True, idempotency_key="k")
        assert queue.enqueue(Note(), unique=True).id == first.id
        queue.enqueue_many([Note()] * 301)
        assert queue.depth() == 302
        assert len(queue.list(limit=1000)) == 302
        assert queue.counts()["default"]
        assert first.cancel()
        assert queue.cancel_all() == 301
        with psycopg.connect(empty_database) as connection, psycopg.ClientCursor(connection) as cursor:
            cursor.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (name,))
            assert cursor.fetchone() == (1,)


def test_a_database_may_be_called_almost_anything(server_dsn: str, settings: Settings):
    name = f'späte "Post" %s {os.getpid()} ?#&'
    quoted = '"' + name.replace('"', '""') + '"'
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {quoted} TEMPLATE template0 ENCODING 'UTF8'".replace("%", "%%"), ())
        try:
            dsn = urlunsplit(urlsplit(server_dsn)._replace(path="/" + quote(name, safe="")))
            with Queue(dsn, settings=settings) as queue:
                queue.migrate()
                assert queue.enqueue(Note()).status() == "ready"
            assert shown(dsn).startswith(name)
        finally:
            admin.execute(f"DROP DATABASE {quoted} WITH (FORCE)".replace("%", "%%"), ())


def test_a_schema_that_is_not_there_names_the_way_out(migrated_database: str, settings: Settings):
    with Queue(migrated_database, schema="elsewhere", settings=settings) as queue:
        with pytest.raises(SchemaError, match="run `pgqueue migrate`"):
            queue.enqueue(Note())
        queue.migrate()
        assert queue.enqueue(Note()).created


async def test_why_there_is_no_connection_is_said_at_once(server_dsn: str, settings: Settings):
    parts = urlsplit(server_dsn)
    missing = urlunsplit(parts._replace(path="/no_such_database"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    refused = f"postgresql://x@127.0.0.1:{port}/x"
    for dsn, message in ((missing, 'database "no_such_database" does not exist'), (refused, "refused")):
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=f"PostgreSQL cannot be reached: .*{message}") as refusal:
            Queue(dsn, settings=settings).open()
        assert "\n" not in str(refusal.value)
        with pytest.raises(DatabaseUnavailable, match=message):
            await AsyncQueue(dsn, settings=settings).depth()
        assert time.monotonic() - began < 15


async def test_a_peer_that_never_answers_is_given_up_on_at_the_deadline(migrated_database: str):
    """The server waits for a lock: the same silence as a peer that vanished."""
    parameters = connection_parameters(migrated_database)
    with psycopg.connect(migrated_database) as holder:
        holder.execute("LOCK TABLE pgqueue.task")
        with Connection.connect(**parameters) as connection:
            connection.deadline_seconds = 0.1
            with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.1 s"):
                connection.execute("SELECT count(*) FROM pgqueue.task")
            assert connection.closed
        async with await AsyncConnection.connect(**parameters) as waiting:
            waiting.deadline_seconds = 0.1
            with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.1 s"):
                await waiting.execute("SELECT count(*) FROM pgqueue.task")
            assert waiting.closed


def test_a_client_whose_connections_are_all_busy_says_so(
    migrated_database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pgqueue.pools.POOL_TIMEOUT_SECONDS", 0.1)
    with Queue(migrated_database, settings=settings, pool_size=1) as queue, queue._connection():
        with pytest.raises(DatabaseUnavailable, match=r"all 1 connections of this client are busy \(pool_size=\)"):
            queue.depth()


def test_a_client_is_shared_between_threads(migrated_database: str, settings: Settings, connection: psycopg.Connection[Any]):
    with_one_pool = Queue(migrated_database, settings=settings, pool_size=3)
    barrier = threading.Barrier(12)
    failures: list[BaseException] = []

    def work() -> None:
        barrier.wait(20)
        try:
            for _ in range(10):
                with_one_pool.enqueue(Note())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not failures
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgqueue'"
    row = connection.execute(sessions).fetchone()
    assert row is not None
    assert row[0] <= 3
    assert with_one_pool.depth() == 120
    with_one_pool.close()
    wait_until(lambda: connection.execute(sessions).fetchone() == (0,))


async def test_an_async_client_opens_one_pool_however_many_ask_at_once(migrated_database: str, settings: Settings):
    queue = AsyncQueue(migrated_database, settings=settings, pool_size=2)
    await asyncio.gather(*(queue.enqueue(Note()) for _ in range(20)))
    assert await queue.depth() == 20
    await queue.close()


def test_a_closed_client_opens_again_when_it_is_used(queue: Queue):
    queue.enqueue(Note())
    queue.close()
    queue.close()
    assert queue.depth() == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork_a_client_does_not_touch_its_parents_connections(migrated_database: str, settings: Settings):
    queue = Queue(migrated_database, settings=settings, pool_size=1)
    queue.enqueue(Note())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            queue.enqueue(Note())
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert queue.depth() == 2
    queue.close()


def test_what_counts_as_a_lost_connection():
    assert is_lost(psycopg.OperationalError("server closed the connection unexpectedly"))
    assert is_lost(psycopg.InterfaceError("the connection is closed"))
    assert is_lost(psycopg.errors.AdminShutdown())
    assert is_lost(psycopg.errors.CannotConnectNow())
    assert is_lost(DatabaseUnavailable())
    for other in (
        psycopg.errors.UniqueViolation(),
        psycopg.errors.DeadlockDetected(),
        psycopg.errors.QueryCanceled(),
        ValueError(),
    ):
        assert not is_lost(other)


def test_patience_ends():
    patience = Patience()
    lost = psycopg.OperationalError("gone\nDETAIL: more")
    assert 0 < patience.pause_after(lost) < 1
    assert 0 < patience.pause_after(psycopg.errors.DeadlockDetected()) < 1
    with pytest.raises(psycopg.errors.UniqueViolation):
        patience.pause_after(psycopg.errors.UniqueViolation())
    patience._deadline = time.monotonic() - 1
    with pytest.raises(DatabaseUnavailable, match=r"cannot be reached: gone$"):
        patience.pause_after(lost)
