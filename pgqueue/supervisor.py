"""The supervisor: a small process that keeps child processes at work and never loads a user's code.

It beats for its children, so that one that blocks its loop or holds the GIL does not look dead; kills one that outstays a task's
timeout, or whose lease it cannot renew; gives a dead one's tasks back and starts another; and lets tasks that crashed their
process before run alone, in a child of their own. The other side is child.py; what a look at a child comes to, vigil.py; what
there is to do in the database, station.py.

One loop, one state: whatever happens (a signal, a message, a death) wakes `_look`, which goes over the children anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import time
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from pgqueue.board import Started
from pgqueue.casualties import Fallen
from pgqueue.children import Child, Errand, Left, Loaded, Order, Ready, Refused, Serve, exit_text
from pgqueue.errors import PgQueueError
from pgqueue.heart import Identity, Pulse
from pgqueue.orphans import reap_orphans
from pgqueue.station import Station
from pgqueue.vigil import HEALTHY_SECONDS, pause

logger = logging.getLogger("pgqueue.supervisor")
LOOK_SECONDS = 0.1
"""The longest pause between two looks at the children."""
SUSPECTS_SECONDS = 1.0
"""How often it looks whether tasks wait to run alone."""
MEMORY_SECONDS = 1.0
FAREWELL_SECONDS_MAX = 5.0
"""At the end, a database out of reach is not waited for longer than this."""


@dataclass(slots=True)
class Seat:
    """A place for one child after the other. `is_closed`: nobody is to sit here again, or not now."""

    order: Order
    is_closed: bool = False
    child: Child | None = None
    was_ready: bool = False
    fallen_count: int = 0
    start_at: float = 0.0
    predecessor_id: uuid.UUID | None = None
    outstayed: tuple[Started, ...] = ()


class Supervisor:
    """Runs children until told to stop by a signal, or, with `drain`, until they have nothing left to do."""

    def __init__(self, order: Order, serve: Serve) -> None:
        self._settings = settings = order.settings
        self._serve = serve
        self._grace_seconds = settings.kill_grace.total_seconds()
        self._seats = [Seat(replace(order, name=name)) for name in _names(order.name, settings.processes)]
        alone = replace(order, name=order.name and f"{order.name}-suspects", suspects_only=True, drain=False)
        self._quarantine = Seat(alone, is_closed=True)
        self._all_seats = (*self._seats, self._quarantine)
        self._retired: list[Child] = []
        """Children whose successor is at work already."""
        self._opening: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._signal_count = 0
        self._memory_at = self._suspects_at = 0.0
        self._asides: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Take the main thread, its signals and a loop. Raises PgQueueError for what keeps the children from working."""
        asyncio.run(self._run())

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        self._wake = asyncio.Event()
        self._station = Station(self._settings, pulses=self._pulses, on_peers=self._tell_peers)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number.name)
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        try:
            while self._look(time.monotonic()):
                await self._sleep()
        finally:
            await self._end()
        if self._failure is not None:
            raise self._failure

    def _look(self, now: float) -> bool:
        """Go over all there is to see, and act. False: there is nothing left to do."""
        for seat in self._all_seats:
            self._mind(seat, now)
        self._retired = [child for child in self._retired if not self._is_gone(child, now)]
        self._open_when_loaded()
        if self._station.is_open:
            # Not earlier: the start of an embedded server waits for processes of its own.
            reap_orphans({child.pid for child in self._children()})
            self._look_for_suspects(now)
        return self._failure is None and (bool(self._children()) or not all(seat.is_closed for seat in self._seats))

    async def _sleep(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
        except TimeoutError:
            pass
        self._wake.clear()

    async def _end(self) -> None:
        """Whatever the end came from: no child survives it, and what they held is given back."""
        for child in self._children():
            child.kill("the supervisor ends")
            self._bury(child)
        if self._opening is not None:
            self._opening.cancel()
        if self._asides:
            await asyncio.wait(self._asides, timeout=FAREWELL_SECONDS_MAX)
        for aside in self._asides:
            aside.cancel()
        await asyncio.gather(*self._asides, return_exceptions=True)
        await self._station.close()

    def _on_signal(self, name: str) -> None:
        """The first one stops in order, a second one at once."""
        self._signal_count += 1
        self._wake.set()
        seconds = self._settings.shutdown_timeout.total_seconds() if self._signal_count == 1 else 0.0
        if self._signal_count == 1:
            logger.info("%s: finishing what runs, for up to %g s; a second signal stops at once", name, seconds)
        for seat in self._all_seats:
            seat.is_closed = True
        for child in self._children():
            if self._station.is_open and child.types is not None:
                child.stop(seconds, kill_at=time.monotonic() + seconds + self._grace_seconds)
            else:
                child.kill("it was stopped before it had started")
        if self._opening is not None:
            self._opening.cancel()

    def _children(self) -> list[Child]:
        return [*(seat.child for seat in self._all_seats if seat.child is not None), *self._retired]

    def _pulses(self) -> list[Pulse]:
        return [child.pulse for child in self._children() if child.pulse is not None]

    def _tell_peers(self, count: int) -> None:
        for child in self._children():
            child.board.peers = count

    def _aside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that the looks go on beside."""
        aside = asyncio.create_task(work)
        self._asides.add(aside)
        aside.add_done_callback(self._put_aside)
        return aside

    def _put_aside(self, aside: asyncio.Task[None]) -> None:
        self._asides.discard(aside)
        self._wake.set()
        if not aside.cancelled():
            self._failure = self._failure or aside.exception()

    # ── one child after the other ───────────────────────────────────────────────────────────────────────────────────

    def _mind(self, seat: Seat, now: float) -> None:
        """Look at who sits here; if nobody does and somebody should, start a child."""
        if seat.child is not None:
            child = seat.child
            is_gone = self._is_gone(child, now)
            seat.was_ready = seat.was_ready or child.is_ready
            if is_gone:
                seat.child = None
                self._succeed(seat, child, now)
            elif (reason := self._is_used_up(child, now)) is not None:
                self._retire(seat, child, reason)
        if seat.child is None and not seat.is_closed and now >= seat.start_at:
            self._start(seat, now)

    def _start(self, seat: Seat, now: float) -> None:
        order = seat.order
        identity = Identity(
            id=uuid.uuid4(),
            name="",
            kind="runner",
            host=socket.gethostname(),
            pid=0,
            version=metadata.version("pgqueue-tasks"),
            app=self._settings.application(),
            queues=None if order.weights is None else list(order.weights),
            types=order.types,
            concurrency=order.concurrency,
        )
        try:
            child = Child(self._serve, order, identity)
        except OSError as error:  # no process to be had, or no memory
            logger.error("cannot start a child, trying on: %s", error)
            self._fall(seat, now)
            return
        child.errand = (seat.predecessor_id, tuple((started.queue, started.id) for started in seat.outstayed))
        seat.child, seat.predecessor_id, seat.outstayed = child, None, ()
        asyncio.get_running_loop().add_reader(child.pipe.fileno(), self._wake.set)

    def _is_gone(self, child: Child, now: float) -> bool:
        """Hear what the child has said. If it is dead, bury it; else judge it."""
        is_dead = child.exit_code is not None  # asked first: what it said before its death is all there
        for message in child.messages():
            self._hear(child, message, now)
        if is_dead:
            self._bury(child)
        elif child.killed_for is None:
            self._judge(child, now)
        return is_dead

    def _hear(self, child: Child, message: Any, now: float) -> None:
        if isinstance(message, Loaded):
            child.hear_loaded(message)
            self._send(child)
        elif isinstance(message, Ready):
            child.hear_ready(now)
        elif isinstance(message, Left | Refused):
            child.last_word, child.kill_at = message, now + self._grace_seconds

    def _send(self, child: Child) -> None:
        """To work, if there is a database to work on."""
        if self._station.is_open and child.types is not None:
            self._station.hurry()
            child.say(Errand(self._station.dsn, child.runner_id, *child.errand))

    def _judge(self, child: Child, now: float) -> None:
        if now >= child.kill_at:
            child.kill("it did not end in time")
        elif child.is_ready:
            outstayed = tuple(child.board.overdue(now - self._grace_seconds))
            if outstayed:
                child.kill(f"{len(outstayed)} of its tasks outstayed their timeout", outstayed)
            elif (reason := child.vigil.lapse(child.sight(), now=now)) is not None:
                child.kill(reason)
            elif (said := child.vigil.look(child.sight(), now=now)) is not None:
                logger.warning("%s %s", child.name, said)

    # ── recycling ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_used_up(self, child: Child, now: float) -> str | None:
        """Why the child is to be replaced, if it is."""
        processed, settings = child.board.processed_count, self._settings
        if not processed or child.is_leaving or child.order.suspects_only:
            return None
        if settings.max_tasks_per_process is not None and processed >= settings.max_tasks_per_process:
            return f"after {processed} tasks"
        if settings.max_memory is not None and now >= child.memory_at:
            child.memory_at = now + MEMORY_SECONDS
            taken = child.memory_bytes()
            if taken >= settings.max_memory:
                return f"which takes up {taken // 1024**2} MB"
        return None

    def _retire(self, seat: Seat, child: Child, reason: str) -> None:
        """Let it finish what it runs, however long that takes; its successor starts at once."""
        logger.info("replacing %s, %s", child.name, reason)
        child.stop(None, kill_at=float("inf"))
        self._retired.append(child)
        seat.child, seat.fallen_count, seat.start_at = None, 0, 0.0

    # ── deaths ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _bury(self, child: Child) -> None:
        """Say what became of it, and give back what it held. A crash counts for what it had started."""
        crashed = child.killed_for is None and child.last_word is None
        started = tuple(child.board.attempts()) if crashed else ()
        asyncio.get_running_loop().remove_reader(child.pipe.fileno())
        child.close()
        if child.killed_for is not None:
            # One that had not begun to work is no loss: why it all ends is said elsewhere.
            logger.log(logging.ERROR if child.is_ready else logging.DEBUG, "%s was killed: %s", child.name, child.killed_for)
        elif crashed:
            logger.error("%s ended with %s; it was running %s tasks", child.name, exit_text(child.exit_code), len(started))
        if not self._is_inherited(child):
            child.outstayed = ()
        if child.pulse is not None and self._station.is_open:
            fallen = Fallen(child.runner_id, child.name, started, child.outstayed)
            self._aside(self._station.look_after(fallen))

    def _is_inherited(self, child: Child) -> bool:
        """Whether somebody will settle the tasks over which it was killed: whoever sits in its place next, for one that was
        retired the child that runs suspects. Else they go back with their attempt unspent."""
        if self._signal_count or not child.outstayed:
            return False
        seat = next((seat for seat in self._all_seats if seat.child is child), self._quarantine)
        if seat.child not in (None, child) or seat.outstayed:
            return False
        seat.predecessor_id, seat.outstayed, seat.is_closed = child.runner_id, child.outstayed, False
        return True

    def _succeed(self, seat: Seat, child: Child, now: float) -> None:
        """What becomes of a seat whose child is gone."""
        word = child.last_word
        if self._signal_count:
            return
        if isinstance(word, Refused) and not seat.was_ready:
            if word.traceback is not None:
                logger.error("a child could not start\n%s", word.traceback)
            self._failure = self._failure or PgQueueError(word.message)
            return
        if isinstance(word, Refused):
            logger.error("%s could not start, trying on: %s", child.name, word.message)
        if isinstance(word, Left) and not word.has_failed and child.killed_for is None:
            seat.fallen_count = 0
            seat.is_closed = seat.order.drain or seat.order.suspects_only
        else:
            if now - child.started_at >= HEALTHY_SECONDS:
                seat.fallen_count = 0
            self._fall(seat, now)

    def _fall(self, seat: Seat, now: float) -> None:
        seat.fallen_count += 1
        seconds = pause(seat.fallen_count)
        seat.start_at = now + seconds
        if seconds:
            logger.warning("starting another child in %g s", seconds)

    # ── the database, and suspects ──────────────────────────────────────────────────────────────────────────────────

    def _open_when_loaded(self) -> None:
        """Once every first child has imported its tasks: connect. What is wrong with the tasks is said first."""
        have_loaded = all(seat.child is not None and seat.child.types is not None for seat in self._seats)
        if have_loaded and self._opening is None and not self._signal_count and self._failure is None:
            self._opening = self._aside(self._open())

    async def _open(self) -> None:
        await self._station.open()
        for child in self._children():
            self._send(child)

    def _look_for_suspects(self, now: float) -> None:
        """Now and then, and only while no child is at it: the tasks that crashed their process before run one at a time."""
        if now < self._suspects_at or self._signal_count or not self._quarantine.is_closed:
            return
        self._suspects_at = now + SUSPECTS_SECONDS * random.uniform(0.8, 1.2)
        types = next((child.types for child in self._children() if child.types is not None), None)
        if types is not None:
            self._aside(self._open_quarantine(types))

    async def _open_quarantine(self, types: list[str]) -> None:
        weights = self._quarantine.order.weights
        found = await self._station.has_suspects(queues=None if weights is None else list(weights), types=types)
        if found and not self._signal_count:
            self._quarantine.is_closed = False


def _names(name: str | None, count: int) -> list[str | None]:
    """What the children are called: as the flag says, numbered where there are several."""
    if name is None or count == 1:
        return [name] * count
    return [f"{name}-{number}" for number in range(1, count + 1)]
