"""A real PostgreSQL for every test: a DSN from the environment, else testcontainers where Docker answers, else the embedded one.

One database per test, cloned from a template that is migrated once. With pytest-xdist all workers share one server. Where there is
memory to spare, the embedded one keeps its files there: a database is some hundreds of them, made and removed for each test.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from pgqueue import AsyncQueue, Queue, Runner, task_hooks
from pgqueue.migrations import migrate
from pgqueue.registry import registry
from pgqueue.settings import Settings

TEMPLATE_PREFIX = "pgqueue_template_"
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 * 2**30
PLACE_PREFIX, PLACE_VARIABLE = "pgqueue-test-", "PGQUEUE_TEST_PLACE"
LINGER_SECONDS = 1.0


def pytest_configure(config: pytest.Config) -> None:
    """Make the place of the embedded server's files, once for all workers: they inherit the variable."""
    if hasattr(config, "workerinput") or not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES_MIN:
        return
    for left in MEMORY.glob(PLACE_PREFIX + "*"):
        if left.stat().st_uid == os.getuid() and time.time() - left.stat().st_mtime > 3_600:
            _remove_place(left)  # of a run that was killed
    os.environ[PLACE_VARIABLE] = tempfile.mkdtemp(prefix=PLACE_PREFIX, dir=MEMORY)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and (place := os.environ.pop(PLACE_VARIABLE, None)):
        _remove_place(Path(place))


@pytest.fixture(scope="session")
def server_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on which databases can be created, as a DSN of its maintenance database."""
    given = os.environ.get("PGQUEUE_TEST_DSN")
    if given:
        yield given
    elif _docker_answers():
        yield from _from_testcontainers()
    else:
        yield from _from_embedded(_shared(tmp_path_factory))


@pytest.fixture(scope="session")
def template(server_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a migrated database that tests are cloned from; made once for all workers."""
    shared = _shared(tmp_path_factory)
    name = TEMPLATE_PREFIX + uuid.uuid5(uuid.NAMESPACE_URL, str(shared)).hex[:12]
    with _locked(shared / "template.lock"), psycopg.connect(server_dsn, autocommit=True) as connection:
        if not (shared / "template.done").exists():
            connection.execute(f'DROP DATABASE IF EXISTS "{name}"')
            connection.execute(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'")
            migrate(database_dsn(server_dsn, name))
            (shared / "template.done").touch()
    return name


@pytest.fixture
def empty_database(server_dsn: str) -> Iterator[str]:
    """The DSN of a database with nothing in it."""
    with _database(server_dsn, "template0") as dsn:
        yield dsn


@pytest.fixture
def migrated_database(server_dsn: str, template: str) -> Iterator[str]:
    """The DSN of a database with the schema in it, and no tasks."""
    with _database(server_dsn, template) as dsn:
        yield dsn


@pytest.fixture
def connection(migrated_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the test's database, in autocommit, to look and to meddle."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def settings() -> Settings:
    """Settings for tests: short leases and polls."""
    return Settings(lease="3s", heartbeat="500ms", poll_interval="50ms", shutdown_timeout="5s", app="test")  # type: ignore[arg-type]


@pytest.fixture
def queue(migrated_database: str, settings: Settings) -> Iterator[Queue]:
    with Queue(migrated_database, settings=settings) as queue:
        yield queue


@pytest.fixture
async def async_queue(migrated_database: str, settings: Settings) -> AsyncIterator[AsyncQueue]:
    async with AsyncQueue(migrated_database, settings=settings) as queue:
        yield queue


@pytest.fixture
async def drain(migrated_database: str, settings: Settings) -> Callable[..., Awaitable[Runner]]:
    """`await drain()`: run every task that is ready, through a real runner, until nothing is left. Returns the runner."""

    async def drain(**options: Any) -> Runner:
        runner = Runner(AsyncQueue(migrated_database, settings=settings), drain=True, **options)
        async with asyncio.timeout(30):
            async with runner:
                await runner.wait()
        return runner

    return drain


@pytest.fixture(autouse=True)
def own_tasks() -> Iterator[None]:
    """Task types, hooks and middleware that a test registers are gone after it."""
    with registry.isolated(), task_hooks.isolated():
        yield


async def eventually(condition: Callable[[], Any], *, timeout: float = 10.0) -> Any:
    """Wait until the condition (sync, or giving an awaitable) is truthy, and return what it gave; fail at the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"still not so after {timeout} s: {condition}")
        await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], Any], *, timeout: float = 15.0) -> Any:
    """The same for sync tests."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"still not so after {timeout} s: {condition}")
        time.sleep(0.01)
    return value


def database_dsn(server_dsn: str, name: str) -> str:
    """The same server, another database."""
    parts = urlsplit(server_dsn)
    # Not urlunsplit: it drops the `//` of an address without a host.
    return f"{parts.scheme}://{parts.netloc}/{quote(name, safe='')}" + (f"?{parts.query}" if parts.query else "")


@contextmanager
def _database(server_dsn: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        # As files: for a template this small it takes half as long as through the write-ahead log.
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    try:
        yield database_dsn(server_dsn, name)
    finally:
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _shared(factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run share."""
    base = factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _docker_answers() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        return subprocess.run([docker, "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _from_testcontainers() -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer("postgres:18", driver=None) as container:
        yield container.get_connection_url()


def _from_embedded(shared: Path) -> Iterator[str]:
    from pgqueue.embedded import open_embedded

    settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "400"}
    place = Path(os.environ.get(PLACE_VARIABLE, shared))
    with open_embedded(place / "embedded", settings=settings, linger_seconds=LINGER_SECONDS) as server:
        yield server.dsn


def _remove_place(place: Path) -> None:
    """Once the server in it has stopped; one that goes on keeps its files."""
    lock, deadline = place / "embedded" / "keeper.lock", time.monotonic() + 10 * LINGER_SECONDS
    while lock.exists():
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.05)
    shutil.rmtree(place, ignore_errors=True)
