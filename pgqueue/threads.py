"""Dedicated threads for sync tasks, fed from one queue. Results travel back to the loop in batches, one wake-up for many."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("pgqueue.threads")


class Threads:
    """Up to `limit` threads, started as they are needed. They are daemons: work that never ends cannot keep the program."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._work: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: deque[_Job] = deque()
        self._waking = False
        self._thread_count = 0
        self._job_count = 0
        self._abandoned_count = 0
        self._lock = threading.Lock()

    @property
    def thread_count(self) -> int:
        """Threads that take jobs; abandoned ones are not counted."""
        return self._thread_count

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call the function in a thread, in a copy of this context. Cancelling the wait abandons the thread, which runs on."""
        loop = asyncio.get_running_loop()
        job = _Job(function, contextvars.copy_context(), loop.create_future(), loop)
        self._make_room()
        self._work.put(job)
        try:
            await job.future
        except asyncio.CancelledError:
            self._abandon(job)
            raise
        if job.error is not None:
            raise job.error
        return job.result

    def close(self) -> None:
        """Let idle threads end. Busy ones end with their work, or with the program."""
        for _ in range(self._thread_count):
            self._work.put(None)

    def _make_room(self) -> None:
        """Count one more job, and start a thread if there are fewer threads than jobs. Counted here and not where threads wake
        up: a thread that has just taken a job would pass for an idle one, and the next job would wait behind it."""
        with self._lock:
            self._job_count += 1
            if self._job_count <= self._thread_count or self._thread_count >= self._limit:
                return
            self._thread_count += 1
        try:
            threading.Thread(target=self._serve, name=f"pgqueue-task-{self._thread_count}", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            with self._lock:
                self._thread_count -= 1
                if self._thread_count == 0:
                    self._job_count -= 1
                    raise
            logger.warning("the system gives no more than %s threads; sync tasks wait for each other", self._thread_count)

    def _abandon(self, job: _Job) -> None:
        """A thread whose task was given up no longer counts: its slot needs another one."""
        with self._lock:
            job.abandoned = True
            if not job.started or job.finished:
                return
            self._thread_count -= 1
            self._job_count -= 1
            self._abandoned_count += 1
            count = self._abandoned_count
        logger.warning("a sync task was given up and its thread runs on; %s such threads by now", count)

    def _serve(self) -> None:
        while (job := self._work.get()) is not None:
            with self._lock:
                job.started = not job.abandoned
                self._job_count -= job.abandoned
            if not job.started:
                continue
            job.call()
            with self._lock:
                job.finished = True
                if job.abandoned:
                    self._abandoned_count -= 1
                    return
                self._job_count -= 1
            self._report(job)

    def _report(self, job: _Job) -> None:
        self._done.append(job)
        with self._lock:
            if self._waking:
                return
            self._waking = True
        try:
            job.loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _deliver(self) -> None:
        """On the loop: hand out what has come in."""
        with self._lock:
            self._waking = False
        while self._done:
            self._done.popleft().deliver()


class _Job:
    __slots__ = ("abandoned", "context", "error", "finished", "function", "future", "loop", "result", "started")

    def __init__(
        self,
        function: Callable[[], Any],
        context: contextvars.Context,
        future: asyncio.Future[None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.function = function
        self.context = context
        self.future = future
        self.loop = loop
        self.result: Any = None
        self.error: BaseException | None = None
        self.started = self.finished = self.abandoned = False

    def call(self) -> None:
        try:
            self.result = self.context.run(self.function)
        except BaseException as error:
            self.error = error

    def deliver(self) -> None:
        # The error does not travel in the future: to a coroutine GeneratorExit and StopIteration from there mean something else.
        if not self.future.done():
            self.future.set_result(None)
