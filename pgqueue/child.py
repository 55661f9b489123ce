"""The child of a supervisor: a runner in a process of its own. It imports the tasks, waits for its errand, and works until it is
told to stop, has nothing left to do, or has lost its supervisor."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

from pgqueue import doors
from pgqueue.board import Board
from pgqueue.children import Errand, Left, Loaded, Order, Ready, Refused, Stop, accept_signals
from pgqueue.collector import calm_collector
from pgqueue.errors import PgQueueError

logger = logging.getLogger("pgqueue.runner")
ORPHAN_STOP_SHARE = 1 / 3
ORPHAN_EXIT_SHARE = 2 / 3
"""Without a supervisor nobody beats: parts of the lease after which what runs is interrupted, and the process ends."""
AS_LONG_AS_IT_TAKES_SECONDS = 10 * 365 * 86_400.0
EXIT_ORPHANED = 1


def serve(pipe: Connection, memory: Any, order: Order) -> None:
    """A child process, from its first line to its last."""
    life = Life(pipe, Board(memory, order.concurrency), order)
    threading.Thread(target=life.end_with_supervisor, name="pgqueue-supervisor", daemon=True).start()
    accept_signals()
    doors.setup_logging(order.settings)
    life.live()


class Life:
    """One child: refused, or run to its end."""

    def __init__(self, pipe: Connection, board: Board, order: Order) -> None:
        self._pipe = pipe
        self._board = board
        self._order = order
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: Any = None
        self._stop_asked = False
        self._stops: list[asyncio.Future[None]] = []

    def live(self) -> None:
        """Whatever it cannot work with is said to the supervisor, who speaks for all children."""
        from pgqueue.discovery import discover
        from pgqueue.loops import drive
        from pgqueue.registry import registry

        try:
            discover(self._order.settings.tasks)
            chosen = registry.names() if self._order.types is None else [registry.get(name).name for name in self._order.types]
            name = self._order.name or f"{socket.gethostname()}-{os.getpid()}"
            self._pipe.send(Loaded(name, chosen))
            errand: Errand | Stop = self._pipe.recv()
            if isinstance(errand, Errand):
                drive(self._work(errand, name))
        except (EOFError, BrokenPipeError):
            return  # the supervisor is gone
        except PgQueueError as error:
            self._say(Refused(str(error)))
        except Exception as error:  # a hook of user code
            said = doors.first_line(error) or type(error).__name__
            self._say(Refused(f"the runner could not start: {type(error).__name__}: {said}", traceback.format_exc()))

    async def _work(self, errand: Errand, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe.fileno(), self._hear)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop, self._order.settings.shutdown_timeout.total_seconds())
        self._runner = runner = self._make(errand, name)
        try:
            await runner.start()
        except PgQueueError:
            if not self._stop_asked:
                raise
            self._say(Left(has_failed=False))
            return
        calm_collector()
        self._say(Ready())
        await runner.wait()
        await runner.stop()
        await asyncio.gather(*self._stops)
        self._loop.remove_reader(self._pipe.fileno())
        self._say(Left(has_failed=runner.has_failed))

    def _make(self, errand: Errand, name: str) -> Any:
        from pgqueue.client import AsyncQueue
        from pgqueue.runner import log_outcome
        from pgqueue.upkeep import Supervision
        from pgqueue.worker import Observer, Runner

        order = self._order
        return Runner(
            AsyncQueue(errand.dsn, settings=order.settings),
            name=name,
            concurrency=order.concurrency,
            queues=order.weights,
            types=order.types,
            drain=order.drain,
            settings=order.settings,
            observer=Observer(settled=log_outcome),
            supervision=Supervision(self._board, errand.predecessor_id, errand.outstayed),
            patience=timedelta(0) if order.suspects_only else order.settings.patience,
            suspects_only=order.suspects_only,
            id=errand.runner_id,
        )

    # ── its end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self, seconds: float) -> None:
        """On the loop: claim no more, finish what runs for so long. A shorter time hurries an earlier call."""
        self._stop_asked = True
        if self._runner is not None:
            self._stops.append(asyncio.ensure_future(self._runner.stop(timeout=seconds)))

    def end_with_supervisor(self) -> None:
        """In a thread, for the loop may be blocked: without a supervisor stop within the lease that it had renewed."""
        supervisor = multiprocessing.parent_process()
        assert supervisor is not None
        supervisor.join()
        lost_at, lease_seconds = time.monotonic(), self._order.settings.lease.total_seconds()
        if self._loop is None:
            os._exit(EXIT_ORPHANED)
        logger.error("the supervisor is gone; stopping")
        try:
            self._loop.call_soon_threadsafe(self.stop, lease_seconds * ORPHAN_STOP_SHARE)
        except RuntimeError:
            pass  # the loop is closed: the process ends by itself, or here
        time.sleep(max(0.0, lost_at + lease_seconds * ORPHAN_EXIT_SHARE - time.monotonic()))
        os._exit(EXIT_ORPHANED)

    def _hear(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            assert self._loop is not None
            self._loop.remove_reader(self._pipe.fileno())
            return
        if isinstance(message, Stop):
            self.stop(AS_LONG_AS_IT_TAKES_SECONDS if message.seconds is None else message.seconds)

    def _say(self, message: Ready | Left | Refused) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            pass  # the supervisor is gone: the thread that waits for that ends the process
