"""A child process as its supervisor sees it: the process, the pipe, the board and the pulse. And what the two say to each other.

The child says `Loaded`, is answered with `Errand`, says `Ready`, and at its end `Left`; `Refused` when it cannot work at all. The
supervisor may say `Stop`. The child's side is child.py.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from typing import Any

from pgqueue.board import Board, Started, size
from pgqueue.heart import Identity, Pulse
from pgqueue.settings import Settings
from pgqueue.vigil import Sight, Vigil

_STATM_RESIDENT = 1
_HELD_BACK = {signal.SIGINT, signal.SIGTERM}


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to be, all of it plain values. `name` None: after its own host and pid."""

    settings: Settings
    name: str | None
    weights: dict[str, int] | None
    types: list[str] | None
    drain: bool
    suspects_only: bool = False

    @property
    def concurrency(self) -> int:
        return 1 if self.suspects_only else self.settings.concurrency


@dataclass(frozen=True, slots=True)
class Loaded:
    """The child has imported its modules and knows these types."""

    name: str
    types: list[str]


@dataclass(frozen=True, slots=True)
class Errand:
    """Go to work, on this database and under this id; `outstayed` are the tasks over which the predecessor was killed."""

    dsn: str
    runner_id: uuid.UUID
    predecessor_id: uuid.UUID | None
    outstayed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """The child claims tasks."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Claim no more, and finish what runs for so many seconds; None: for as long as it takes."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Left:
    """The child ends in order: stopped, or with nothing left to do. `has_failed`: a part of it did."""

    has_failed: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The child cannot work: in one line, and as a traceback where that helps."""

    message: str
    traceback: str | None = None


Serve = Callable[[Any, Any, Order], None]


class Child:
    """One child process, from its start until it is buried."""

    def __init__(self, serve: Serve, order: Order, identity: Identity) -> None:
        spawn = multiprocessing.get_context("spawn")
        memory = spawn.RawArray(ctypes.c_char, size(order.concurrency))
        self.runner_id = identity.id
        self.order = order
        self.board = Board(memory, order.concurrency)
        self.pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(theirs, memory, order), name="pgqueue-child")
        _start(self._process)
        theirs.close()
        self.pid = self._process.pid or 0
        self._exit_code: int | None = None
        self.started_at = time.monotonic()
        self._identity = replace(identity, pid=self.pid)
        self.name = f"the child with pid {self.pid}"
        self.pulse: Pulse | None = None
        self.vigil = Vigil(lease_seconds=order.settings.lease.total_seconds(), now=self.started_at)
        self.errand: tuple[uuid.UUID | None, tuple[tuple[str, str], ...]] = (None, ())
        """Whom it succeeds, and the tasks that it takes over."""
        self.is_ready = self.is_leaving = False
        """Whether it has said so; whether it was told to stop."""
        self.last_word: Left | Refused | None = None
        self.killed_for: str | None = None
        self.outstayed: tuple[Started, ...] = ()
        self.kill_at = float("inf")
        self.memory_at = 0.0

    # ── what it says ────────────────────────────────────────────────────────────────────────────────────────────────

    def messages(self) -> list[Any]:
        """What has come in since the last call."""
        found = []
        try:
            while self.pipe.poll():
                found.append(self.pipe.recv())
        except (EOFError, OSError):
            pass  # it is dead or about to die; its end is noticed elsewhere
        return found

    def say(self, message: Errand | Stop) -> None:
        try:
            self.pipe.send(message)
        except OSError:
            pass  # as above

    def hear_loaded(self, loaded: Loaded) -> None:
        """It is known by name from now on, and beaten for."""
        self._identity = replace(self._identity, name=loaded.name, types=loaded.types)
        self.name = f"{loaded.name} (pid {self.pid})"
        self.pulse = Pulse(
            self._identity,
            running_count=lambda: self.board.running_count,
            may_beat=lambda: self.vigil.may_beat(self.sight(), now=time.monotonic()),
        )

    def hear_ready(self, now: float) -> None:
        """Its loop turns from now on; before, its hooks may have taken their time."""
        self.is_ready = True
        self.vigil = Vigil(lease_seconds=self.order.settings.lease.total_seconds(), now=now)

    @property
    def types(self) -> list[str] | None:
        """The types it knows; None until it has loaded them."""
        return None if self.pulse is None else self._identity.types

    # ── what there is to see ────────────────────────────────────────────────────────────────────────────────────────

    def sight(self) -> Sight:
        board, pulse = self.board, self.pulse
        return Sight(
            is_busy=board.is_busy,
            tick_at=board.tick_at,
            reached_at=board.reached_at,
            lane_opened_at=board.lane_opened_at,
            beat_at=0.0 if pulse is None else pulse.beat_at,
            trying_since=None if pulse is None else pulse.trying_since,
        )

    def memory_bytes(self) -> int:
        """What it has in memory."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[_STATM_RESIDENT]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return self.board.memory_bytes

    @property
    def exit_code(self) -> int | None:
        """None while it lives. Reaps it."""
        if self._exit_code is None:
            self._exit_code = self._process.exitcode
        return self._exit_code

    # ── its end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self, seconds: float | None, *, kill_at: float) -> None:
        """Tell it to end, and when it will be killed if it does not."""
        self.is_leaving = True
        self.kill_at = min(self.kill_at, kill_at)
        self.say(Stop(seconds))

    def kill(self, reason: str, outstayed: tuple[Started, ...] = ()) -> None:
        """End it at once. Its crash is then no task's fault."""
        if self.killed_for is None:
            self.killed_for, self.outstayed = reason, outstayed
        self._process.kill()

    def close(self) -> None:
        """Let go of what a dead child leaves behind."""
        self._process.join()
        self._exit_code = self._process.exitcode
        self._process.close()
        self.pipe.close()


def _start(process: Any) -> None:
    """Start it with signals held back: Ctrl-C reaches the whole group, and must not end a child that is not ready for it."""
    resource_tracker.ensure_running()  # else the start does it, and lets the signals through
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)


def exit_text(code: int | None) -> str:
    """An exit code as people say it."""
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {next((known.name for known in signal.Signals if known.value == -code), -code)}"


def accept_signals() -> None:
    """In the child: Ctrl-C is the supervisor's business; what was held back comes in."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
