"""What `pgqueue up` starts and stops: the server, a runner, a scheduler, and who tells about them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections import Counter
from collections.abc import Coroutine
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pgqueue.cli import demo
from pgqueue.cli.narrator import LogLines, Narrator
from pgqueue.client import AsyncQueue
from pgqueue.doors import route_logs
from pgqueue.errors import PgQueueError
from pgqueue.recurring import Scheduler
from pgqueue.registry import registry
from pgqueue.server import find_server
from pgqueue.states import Status
from pgqueue.worker import Observer, Runner

if TYPE_CHECKING:
    from pgqueue.definition import TaskType
    from pgqueue.settings import Settings

TICK_SECONDS = 0.1
COUNT_SECONDS = 1.0
COUNT_SHARE = 20
"""Counting takes at most one part in so many of the time: a million tasks are counted slowly."""


class Development:
    """Everything in one process, until Ctrl-C."""

    def __init__(self, settings: Settings, *, queues: dict[str, int] | None, complete: bool, demo: bool) -> None:
        self._settings = settings
        self._queues = queues
        self._complete = complete
        self._demo = demo
        self._narrator = Narrator(registry.names())
        self._signals = 0
        self._stopping = asyncio.Event()
        self._asides: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Start, wait for Ctrl-C, stop. Raises what the parts raise at their start."""
        if self._demo:
            demo.check(registry)
        route_logs(LogLines(self._narrator), self._settings.log_level)
        self._narrator.say(f"pgqueue {version('pgqueue-tasks')}", "bold")
        main = asyncio.ensure_future(self._serve())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, main)
        try:
            await main
        except asyncio.CancelledError:
            self._narrator.say("stopped before it had started")
        finally:
            self._narrator.close()
            logging.getLogger().handlers.clear()

    async def _serve(self) -> None:
        server = await asyncio.to_thread(find_server, None, self._settings, say=self._say_where)
        if server.embedded is None:
            self._say_where(server.notice)
        try:
            # Opened by its first use: the runner is the one that waits for a server which is not there yet.
            queue = AsyncQueue(server.dsn, settings=self._settings)
            try:
                await self._work(queue)
            finally:
                await queue.close()
        finally:
            await asyncio.to_thread(server.close)

    async def _work(self, queue: AsyncQueue) -> None:
        observer = Observer(started=self._narrator.started, settled=self._narrator.settled)
        self._runner = Runner(queue, queues=self._queues, settings=self._settings, observer=observer)
        scheduler = Scheduler(queue, complete=self._complete, settings=self._settings, observer=self._narrator.fired)
        self._aside(self._tick())
        try:
            await self._runner.start()
            self._header()
            async with scheduler:
                self._narrator.open()
                self._aside(self._count(queue))
                if self._demo:
                    self._aside(demo.feed(queue, self._narrator.enqueued, chance=random.Random()))
                await self._until_stopped()
            await self._runner.stop()
            await self._goodbye(queue)
        finally:
            await self._runner.stop(timeout=0.0)
            for aside in self._asides:
                aside.cancel()
            await asyncio.gather(*self._asides, return_exceptions=True)

    async def _until_stopped(self) -> None:
        ends = [asyncio.ensure_future(self._stopping.wait()), asyncio.ensure_future(self._runner.wait()), *self._asides]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not self._stopping.is_set():
            for aside in self._asides:
                if aside.done():
                    aside.result()
            raise PgQueueError("the runner stopped by itself: a part of it failed, see above")
        for end in ends[:2]:
            end.cancel()

    def _on_signal(self, main: asyncio.Future[None]) -> None:
        self._signals += 1
        if self._runner_status() != "running" and self._signals == 1:
            main.cancel()
            return
        if self._signals == 1:
            seconds = self._settings.shutdown_timeout.total_seconds()
            running = self._narrator.running_count
            if running:
                self._narrator.farewell = f"finishing {running} (up to {seconds:g} s); Ctrl-C again stops at once"
                if not self._narrator.console.is_terminal:
                    self._narrator.say(self._narrator.farewell)
            self._stopping.set()
        else:
            self._narrator.farewell = "stopping at once"
            self._aside(self._runner.stop(timeout=0.0))

    def _runner_status(self) -> str:
        return self._runner.stats().status if hasattr(self, "_runner") else "new"

    # ── asides ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _aside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._asides.append(asyncio.ensure_future(coroutine))

    async def _tick(self) -> None:
        while True:
            self._narrator.tick()
            await asyncio.sleep(TICK_SECONDS)

    async def _count(self, queue: AsyncQueue) -> None:
        """How much waits, for the last line."""
        while True:
            began = time.monotonic()
            with contextlib.suppress(PgQueueError):
                self._narrator.counts = await _counts(queue)
            await asyncio.sleep(max(COUNT_SECONDS, COUNT_SHARE * (time.monotonic() - began)))

    # ── what it says ────────────────────────────────────────────────────────────────────────────────────────────────

    def _say_where(self, line: str) -> None:
        self._narrator.facts([("database", line)])

    def _header(self) -> None:
        rows = []
        types = list(registry)
        width = max(len(task_type.name) for task_type in types)
        for position, task_type in enumerate(types):
            rows.append(("" if position else "tasks", f"{task_type.name:<{width}}  {_traits(task_type)}"))
        rows.append(("slots", f"{self._settings.concurrency} tasks at a time, {_queue_words(self._queues)}"))
        if self._demo:
            rows.append(("demo", "enqueues a SendEmail or ProcessData every second or so"))
        rows.append(("stop", "Ctrl-C finishes what runs; a second one stops at once"))
        self._narrator.facts([*rows, ("", "")])

    async def _goodbye(self, queue: AsyncQueue) -> None:
        with contextlib.suppress(PgQueueError):
            self._narrator.counts = await _counts(queue)
        self._narrator.close()
        waiting = sum(self._narrator.counts[status] for status in (Status.READY, Status.SCHEDULED, Status.BLOCKED))
        self._narrator.say(f"\nStopped after {self._narrator.uptime()}: {self._narrator.total_words()}.")
        if waiting:
            self._narrator.say(f"{waiting:,} {'task waits' if waiting == 1 else 'tasks wait'} for the next time.")


async def _counts(queue: AsyncQueue) -> Counter[Status]:
    total: Counter[Status] = Counter()
    for counts in (await queue.counts()).values():
        total.update(counts)
    return total


def _traits(task_type: TaskType[Any]) -> str:
    traits = [f"priority {task_type.priority}"]
    if task_type.recurrence is not None:
        traits.append(task_type.recurrence.describe())
    if task_type.unique is not None:
        traits.append("unique")
    if task_type.queue != "default":
        traits.append(f"queue {task_type.queue}")
    return ", ".join(traits)


def _queue_words(queues: dict[str, int] | None) -> str:
    if queues is None:
        return "from all queues"
    weighted = [name if weight == 1 else f"{name} ({weight}×)" for name, weight in queues.items()]
    return f"from {', '.join(weighted)}"
