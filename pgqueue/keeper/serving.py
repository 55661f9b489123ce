"""The keeper's life: take the lock, open the sockets, keep the server up while there are users, stop it.

One thread and one selector: every wait goes through `tick`, so users come, go and are told while anything is awaited.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import selectors
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import Plan, StartFailure, Stop, say
from .identity import Way, choose_way, libc
from .postmaster import Postmaster, pid_file_lines

SOCKET_NAME = ".s.PGSQL.5432"
# libpq and SQLAlchemy take a comma or a colon in `host` for the next host or the port.
SOCKET_PATH_ALPHABET = re.compile(r"[\w/. +~@%-]+")
SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107  # sockaddr_un, without the closing zero byte
LOOK_ROUND_SECONDS = 2.0
BEAT_SECONDS = 1.0
STEP_SECONDS = 0.01
FAILED_RESTART_LIMIT = 5
RESTART_PAUSE_SECONDS = 0.1
RESTART_PAUSE_LIMIT_SECONDS = 10.0
STEADY_SECONDS = 60.0  # a server that lived this long was in no crash loop
PR_SET_CHILD_SUBREAPER = 36


class Users:
    """The sockets of those who use the server, and when the last one left."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._sockets: set[socket.socket] = set()
        self._message: dict[str, object] = {"state": "waiting"}
        self.alone_since: float | None = None

    def add(self, user: socket.socket) -> None:
        user.setblocking(False)
        self._sockets.add(user)
        self.alone_since = None
        self._selector.register(user, selectors.EVENT_READ, lambda: self._hear(user))
        self._tell(user)

    def announce(self, state: str, **more: object) -> None:
        """Tell all of them now, and those who come later."""
        self._message = {"state": state, **more}
        for user in list(self._sockets):
            self._tell(user)

    def drop_all(self) -> None:
        for user in list(self._sockets):
            self._drop(user)

    def _tell(self, user: socket.socket) -> None:
        try:
            user.send(json.dumps(self._message).encode() + b"\n")
        except BlockingIOError:
            pass  # it has not read for long, so it waits for nothing
        except OSError:
            self._drop(user)

    def _hear(self, user: socket.socket) -> None:
        """Users say nothing: what can be read is the end."""
        with contextlib.suppress(ConnectionError):
            if user in self._sockets and user.recv(4096):
                return
        self._drop(user)

    def _drop(self, user: socket.socket) -> None:
        if user in self._sockets:
            self._sockets.discard(user)
            self._selector.unregister(user)
            user.close()
        if not self._sockets and self.alone_since is None:
            self.alone_since = time.monotonic()


class Keeper:
    """The keeper of one data directory, with its first user: who started it."""

    def __init__(self, plan: Plan, first_user: socket.socket) -> None:
        self.plan, self.directory = plan, Path(plan.directory)
        self.selector = selectors.DefaultSelector()
        self.users = Users(self.selector)
        self.state = "waiting"
        self.linger_seconds = 0.0  # until the lock is ours there is nothing to linger for
        self.told_to_stop = False
        self.listener: socket.socket | None = None
        self.lock = -1
        self._take_signals()
        self.users.add(first_user)

    def run(self) -> None:
        """From taking the lock to its release. Whatever happens, the users hear of it and the server is stopped."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.close_sockets)
            try:
                self.wait(self._try_lock, lambda: "waiting for the server before it to stop")
                self.state, self.linger_seconds = "starting", self.plan.linger_seconds
                self.users.announce("starting")
                way = choose_way(self.plan)
                sockets = self.open_sockets(way)
                if sockets != way.home / "sockets":
                    stack.callback(shutil.rmtree, sockets, ignore_errors=True)
                postmaster = Postmaster(self.plan, way, sockets, self.lock)
                stack.callback(lambda: postmaster.stop(orderly=self._holds_directory()))
                stack.callback(self.close_sockets)  # before the stop: nobody may join a server that is stopping
                postmaster.check_version()
                if not (postmaster.data / "PG_VERSION").exists():
                    postmaster.create_cluster(self.wait)
                self.serve(postmaster)
            except Stop:
                if self.state != "waiting":
                    say("told to stop" if self.told_to_stop else "nobody uses the server any more")
            except StartFailure as failure:
                self._fail(str(failure))
            except OSError as error:
                self._fail(f"{error.filename or self.directory}: {error.strerror or error}.")

    def _fail(self, error: str) -> None:
        say(f"giving up: {error}")
        self.users.announce("failed", error=error)

    # waiting

    def _take_signals(self) -> None:
        def told(*_: object) -> None:
            self.told_to_stop = True

        reader, writer = self.wakeup = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake the selector
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, told)
        self.selector.register(reader, selectors.EVENT_READ, lambda: reader.recv(4096))

    def tick(self, timeout_seconds: float) -> None:
        """Wait for anything at all, at most so long. Raises Stop when it is time to go."""
        for key, _ in self.selector.select(max(timeout_seconds, 0)):
            key.data()
        if self.told_to_stop or self._left_seconds() <= 0:
            raise Stop

    def wait(self, done: Callable[[], bool], about: Callable[[], str]) -> None:
        """Wait as long as it takes, and tell the users every second that it does."""
        started = beat = time.monotonic()
        while not done():
            self.tick(STEP_SECONDS)
            if time.monotonic() - beat >= BEAT_SECONDS:
                beat = time.monotonic()
                self.users.announce(self.state, about=about(), seconds=int(beat - started))

    def _left_seconds(self) -> float:
        """Until we stop for want of users."""
        if self.users.alone_since is None:
            return float("inf")
        return self.users.alone_since + self.linger_seconds - time.monotonic()

    # the lock and the sockets

    def _try_lock(self) -> bool:
        """Become the one keeper of this directory. False while one before us, or any process of its server, is left."""
        if self.lock < 0:
            self.lock = os.open(self.directory / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stop_ownerless_server()
            return False
        if not self._holds_directory():
            os.close(self.lock)
            self.lock = -1
            return False
        os.ftruncate(self.lock, 0)
        os.write(self.lock, str(os.getpid()).encode())
        return True

    def _holds_directory(self) -> bool:
        """Whether the file we locked is still there: the directory may have been removed, and made anew by somebody."""
        with contextlib.suppress(OSError):
            return self.lock >= 0 and os.path.samestat(os.fstat(self.lock), os.stat(self.directory / "keeper.lock"))
        return False

    def _stop_ownerless_server(self) -> None:
        """Where the kernel does not tell a server that its keeper died (PR_SET_PDEATHSIG is Linux's), the next keeper does."""
        if sys.platform == "linux":
            return
        with contextlib.suppress(OSError, ValueError, IndexError):
            keeper_pid = int(os.pread(self.lock, 32, 0))
            try:
                os.kill(keeper_pid, 0)
            except ProcessLookupError:
                os.kill(int(pid_file_lines(self.directory / "postgres")[0]), signal.SIGINT)

    def open_sockets(self, way: Way) -> Path:
        """Make the private socket directory, and listen in it for users who join.

        Where no socket can be, as in a deep data directory, it is a short one under /tmp, and `sockets` a link to it. (Not under
        XDG_RUNTIME_DIR: that goes away at logout, while the server may stay.)
        """
        link, own = self.directory / "sockets", way.home / "sockets"
        if len(os.fsencode(own / SOCKET_NAME)) > SOCKET_PATH_LIMIT or not SOCKET_PATH_ALPHABET.fullmatch(str(own)):
            old = Path(os.readlink(link)) if link.is_symlink() else link
            own = old if old != link and is_private(old) else Path(tempfile.mkdtemp(prefix="pgqueue-", dir="/tmp"))
        if link.is_symlink():
            link.unlink()
        own.mkdir(mode=0o700, exist_ok=True)
        if way.server_uid is not None:
            os.chown(own, way.server_uid, way.server_uid)
        if own != link:
            if link.exists():
                shutil.rmtree(link)
            link.symlink_to(own)
        # A killed server leaves its socket and a file with its pid, which may be somebody else's now.
        for name in ("keeper.sock", SOCKET_NAME, SOCKET_NAME + ".lock"):
            (own / name).unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(own / "keeper.sock"))
        self.listener.listen(128)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        return own

    def _accept(self) -> None:
        assert self.listener is not None
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self.users.add(self.listener.accept()[0])

    def close_sockets(self) -> None:
        """Let nobody join any more. Who is in the backlog, or still waiting, sees the end and begins anew."""
        if self.listener is not None:
            if self._holds_directory():
                (self.directory / "sockets" / "keeper.sock").unlink(missing_ok=True)
            self.selector.unregister(self.listener)
            self.listener.close()
            self.listener = None
        self.users.drop_all()

    # the server

    def serve(self, postmaster: Postmaster) -> NoReturn:
        """Keep the server up until Stop: a postmaster that dies is started again, after a pause that grows."""
        came_up, failures, deaths = False, 0, 0
        while True:
            started = time.monotonic()
            postmaster.start(self.wait)
            self.wait(lambda: postmaster.is_dead() or postmaster.is_ready(), postmaster.progress)
            if postmaster.is_ready():
                came_up, failures = True, 0
                self._say_ready(postmaster)
                self.watch(postmaster)
            else:
                failures += 1
            postmaster.await_all_gone(self.wait)
            if not came_up or failures >= FAILED_RESTART_LIMIT:
                tail = f"The last lines of {postmaster.log}:\n{postmaster.tail()}"
                raise StartFailure(f"PostgreSQL did not start.{postmaster.hint_disk()} {tail}")
            deaths = 1 if time.monotonic() - started > STEADY_SECONDS else deaths + 1
            self._pause(min(RESTART_PAUSE_SECONDS * 2.0 ** (deaths - 1), RESTART_PAUSE_LIMIT_SECONDS))

    def _say_ready(self, postmaster: Postmaster) -> None:
        more = {"sockets": str(postmaster.sockets), "data": os.path.realpath(postmaster.data), "way": postmaster.way.name}
        self.users.announce("ready", token=self.plan.token, **more)

    def watch(self, postmaster: Postmaster) -> None:
        """Sit by a running server. Returns when it died."""
        looked_at = time.monotonic()
        while not postmaster.is_dead():
            self.tick(min(LOOK_ROUND_SECONDS, self._left_seconds()))
            if time.monotonic() - looked_at >= LOOK_ROUND_SECONDS:
                looked_at = time.monotonic()
                postmaster.bound_log()
                if not self._holds_directory():
                    raise StartFailure(f"{self.directory} was removed.")
        say("PostgreSQL ended by itself: starting it again")
        self.users.announce("starting")

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.tick(min(left, self._left_seconds()))


def is_private(path: Path) -> bool:
    """Whether it is a directory, no link, that only we can open."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return False


def main() -> None:
    """Leave the caller's family, so that it has no child to wait for, and keep. argv: the plan, and the first user's socket."""
    plan, first_user = Plan(**json.loads(sys.argv[1])), socket.socket(fileno=int(sys.argv[2]))
    if os.fork() != 0:
        os._exit(0)
    os.umask(0o077)
    if libc is not None:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Keeper(plan, first_user).run()
