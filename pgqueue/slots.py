"""The slots of a runner: how what it has in hand (hand.py) is run, and the way of each attempt to whoever writes it down.

A slot is a long-lived asyncio.Task that takes one claimed task after the other. Most of a task's price would otherwise be the
making of an asyncio.Task for it; user code notices no difference: `asyncio.current_task`, timeouts and task groups work, and
every attempt has a context of its own. A slot whose attempt was interrupted is not used again. Where the next task is of a batch
type, the slot takes more of that type from the buffer and runs them as one call (calls.py).
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Sequence

from pgqueue.aging import Order, by_priority
from pgqueue.board import Board
from pgqueue.calls import Call, Calls
from pgqueue.completer import Completer
from pgqueue.context import Claimed, Services
from pgqueue.executor import Attempt, Executor
from pgqueue.hand import Hand
from pgqueue.outcomes import Outcome
from pgqueue.paces import Paces
from pgqueue.prefetch import Prefetch
from pgqueue.within import Within

STREAK_SECONDS = 0.002
"""How long attempts that never wait may follow each other before the loop gets its turn."""

SOON_SECONDS = 0.001
SAMPLE = 4
"""Of attempts that end so soon, only every fourth is measured: there may be 100,000 a second."""


class Slots(Hand):
    """Runs up to `concurrency` attempts at a time from a buffer of claimed tasks. Lives on one event loop."""

    def __init__(
        self,
        *,
        concurrency: int,
        executor: Executor,
        completer: Completer,
        prefetch: Prefetch,
        services: Services,
        board: Board,
        paces: Paces | None = None,
        calls: Calls | None = None,
        order: Callable[[str], Order] = lambda queue: by_priority,
        on_room: Callable[[], None],
        on_start: Callable[[Claimed], None] | None = None,
    ) -> None:
        super().__init__(
            concurrency=concurrency,
            executor=executor,
            completer=completer,
            batch_sizes={} if calls is None else calls.sizes,
            order=order,
        )
        self._prefetch = prefetch
        self._services = services
        self._paces = paces
        self._calls = calls
        self._board = board
        self._on_room = on_room
        self._on_start = on_start
        self._slots: set[asyncio.Task[None]] = set()
        self._resting: list[asyncio.Future[None]] = []
        self._empty = contextvars.Context()
        self._yield_at = 0.0
        self._soon_count = 0
        self.room_below = -1
        """`on_room` is called when a task ends and no more than so many are in hand."""

    def offer(self, tasks: Sequence[Claimed]) -> None:
        """Take claimed tasks of one queue, in the order to run them, and start what there are slots for."""
        super().offer(tasks)
        self._rouse()

    def close(self) -> None:
        """Let idle slots end. What still runs is left alone."""
        self._closed = True
        while self._resting:
            _wake(self._resting.pop())

    # ── a slot ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _rouse(self) -> None:
        """One slot more for what is buffered, if there is one; it rouses the next before it has to wait."""
        if not self._buffer or self._closed or len(self._active) - self._sharing_count >= self._concurrency:
            return
        if self._resting:
            _wake(self._resting.pop())
        elif len(self._slots) < self._concurrency:
            slot = asyncio.get_running_loop().create_task(self._serve(), context=self._empty.copy())
            self._slots.add(slot)
            slot.add_done_callback(self._slots.discard)

    async def _serve(self) -> None:
        """Run one attempt, or one call, after the other."""
        me = asyncio.current_task()
        assert me is not None
        while not self._closed:
            if not self._buffer:
                await self._rest()
                continue
            running = self._begin(me)
            if running is None:
                await asyncio.sleep(0)
                continue
            outcome: Outcome | None = None
            if running.rest is not None:
                self._rouse()
                try:
                    outcome = await Within(running.rest, running.variables)
                # In here and no deeper: a GeneratorExit that comes out of a future closes every coroutine below this one.
                except BaseException as error:
                    outcome = self._escaped(running, error)
            if isinstance(running, Call):
                self._end_call(running)
            else:
                outcome = outcome or running.outcome
                assert outcome is not None
                self._end(running, outcome)
            if me.cancelling():
                break  # a cancellation that nobody awaited would hit the next attempt
        # Its place is free for another, while this one is still in the set.
        self._slots.discard(me)
        self._rouse()

    async def _rest(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._resting.append(waiting)
        try:
            await waiting
        finally:
            if waiting in self._resting:  # ended by a cancellation that user code left behind
                self._resting.remove(waiting)

    def _begin(self, slot: asyncio.Task[None]) -> Attempt | Call | None:
        """Start the next task, and end it too if it never waits. None: the loop must have its turn first."""
        now = time.perf_counter()
        if not self._yield_at:
            self._yield_at = now + STREAK_SECONDS
            asyncio.get_running_loop().call_soon(self._renew)
        elif now > self._yield_at:
            return None
        claimed = self._buffer.popleft()
        if self._batch_sizes and claimed.type in self._batch_sizes:
            return self._begin_call(claimed, slot, now)
        attempt = Attempt(claimed, self._services)
        attempt.started_at = now
        attempt.slot = slot
        self._active[claimed] = attempt
        if claimed.holding is not None:
            claimed.holding.start()
        if self._on_start is not None:
            self._on_start(claimed)
        attempt.variables = self._empty.copy()
        try:
            attempt.variables.run(self._executor.begin, attempt)
        except BaseException as error:
            attempt.outcome = self._executor.escaped(attempt, error)
        return attempt

    def _renew(self) -> None:
        """The loop has had its turn."""
        self._yield_at = 0.0

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        self._board.ended(attempt.position)
        claimed = attempt.claimed
        del self._active[claimed]
        seconds = time.perf_counter() - attempt.started_at
        if seconds > SOON_SECONDS:
            self._measure(claimed, seconds, 1)
        else:
            self._soon_count += 1
            if self._soon_count >= SAMPLE:
                self._soon_count = 0
                self._measure(claimed, seconds, SAMPLE)
        if self._batch_sizes:
            self._prefetch.observe_width(1)
        self._complete(claimed, outcome, attempt.keeps_history)
        if not self._active and not self._buffer:
            self._idle.set()
        if len(self._active) - self._sharing_count + len(self._buffer) <= self.room_below:
            self._on_room()

    def _escaped(self, running: Attempt | Call, error: BaseException) -> Outcome | None:
        """What came out beside the executor ends the attempt, or every one of the call that has no outcome yet."""
        if not isinstance(running, Call):
            return self._executor.escaped(running, error)
        for attempt in running.attempts:
            attempt.outcome = attempt.outcome or self._executor.escaped(attempt, error)
        return None

    # ── a call ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin_call(self, first: Claimed, slot: asyncio.Task[None], now: float) -> Call:
        """Start this task of a batch type and what the buffer holds of it; what does not join the call ends here."""
        assert self._calls is not None
        size = self._batch_sizes[first.type]
        attempts = [self._join(claimed) for claimed in (first, *self._take_along(first.type, size - 1))]
        call = Call(attempts, size, slot)
        call.started_at = now
        call.variables = self._empty.copy()
        try:
            call.variables.run(self._calls.begin, call)
        except BaseException as error:
            self._escaped(call, error)
        call.attempts = [attempt for attempt in attempts if attempt.outcome is None]
        self._running_calls.add(call)
        self._sharing_count += max(0, len(call.attempts) - 1)
        for attempt in attempts:
            if attempt.outcome is not None:
                self._leave(attempt)
        return call

    def _take_along(self, type_name: str, limit: int) -> list[Claimed]:
        """Up to so many tasks of this type out of the buffer, in their order; the others keep theirs."""
        taken: list[Claimed] = []
        passed: list[Claimed] = []
        while self._buffer and len(taken) < limit:
            claimed = self._buffer.popleft()
            (taken if claimed.type == type_name else passed).append(claimed)
        self._buffer.extendleft(reversed(passed))
        return taken

    def _join(self, claimed: Claimed) -> Attempt:
        attempt = self._active[claimed] = Attempt(claimed, self._services)
        if claimed.holding is not None:
            claimed.holding.start()
        if self._on_start is not None:
            self._on_start(claimed)
        return attempt

    def _end_call(self, call: Call) -> None:
        self._running_calls.discard(call)
        self._sharing_count -= max(0, len(call.attempts) - 1)
        if call.attempts:
            seconds = time.perf_counter() - call.started_at
            self._prefetch.observe_duration(seconds)
            self._prefetch.observe_width(call.batch_size)
            if self._paces is not None:
                self._paces.observe(call.attempts[0].claimed.type, seconds)
        for attempt in call.attempts:
            self._leave(attempt)
        self._check_idle()
        if self.in_hand <= self.room_below:
            self._on_room()

    def _leave(self, attempt: Attempt) -> None:
        """An attempt of a call has its outcome."""
        assert attempt.outcome is not None
        self._board.ended(attempt.position)
        del self._active[attempt.claimed]
        self._complete(attempt.claimed, attempt.outcome, attempt.keeps_history)

    def _measure(self, claimed: Claimed, seconds: float, count: int) -> None:
        self._prefetch.observe_duration(seconds, count)
        if self._paces is not None:
            self._paces.observe(claimed.type, seconds)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
