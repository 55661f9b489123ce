"""The slots of a runner: what it holds, what it runs, and the way of each attempt from its claim to whoever writes it down.

A slot is a long-lived asyncio.Task that takes one claimed task after the other. Most of a task's price would otherwise be the
making of an asyncio.Task for it; user code notices no difference: `asyncio.current_task`, timeouts and task groups work, and
every attempt has a context of its own. A slot whose attempt was interrupted is not used again.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any

from pgqueue.aging import Order, by_priority
from pgqueue.batch import Batch
from pgqueue.board import Board
from pgqueue.completer import Completer, Settlement
from pgqueue.context import Claimed, Services
from pgqueue.executor import Attempt, Executor
from pgqueue.outcomes import RETURNED, Outcome, Verdict
from pgqueue.paces import Paces
from pgqueue.prefetch import Prefetch

STREAK_SECONDS = 0.002
"""How long attempts that never wait may follow each other before the loop gets its turn."""


class Slots:
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
        order: Callable[[str], Order] = lambda queue: by_priority,
        on_room: Callable[[], None],
        on_start: Callable[[Claimed], None] | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._executor = executor
        self._completer = completer
        self._prefetch = prefetch
        self._services = services
        self._paces = paces
        self._order = order
        self._board = board
        self._on_room = on_room
        self._on_start = on_start
        self._buffer: deque[Claimed] = deque()
        self._active: dict[Claimed, Attempt] = {}
        self._held: Counter[str] = Counter()
        self._slots: set[asyncio.Task[None]] = set()
        self._resting: list[asyncio.Future[None]] = []
        self._empty = contextvars.Context()
        self._yield_at = 0.0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.room_below = -1
        """`on_room` is called when a task ends and no more than so many are in hand."""

    @property
    def active_count(self) -> int:
        """Attempts that run now."""
        return len(self._active)

    @property
    def in_hand(self) -> int:
        """Tasks claimed and not finished: running and buffered."""
        return len(self._active) + len(self._buffer)

    @property
    def is_busy(self) -> bool:
        """Whether tasks wait here for a slot: then outcomes come thick and fast."""
        return bool(self._buffer)

    def held_claims(self) -> list[str]:
        """The leases of which something is not settled yet. Safe from another thread."""
        return [claim for claim, count in list(self._held.items()) if count > 0]

    def hold(self, claim_id: str, count: int) -> None:
        """So many more tasks are leased under this claim."""
        self._held[claim_id] += count

    def offer(self, tasks: Sequence[Claimed]) -> None:
        """Take claimed tasks of one queue, in the order to run them, and start what there are slots for."""
        if not tasks:
            return
        for claimed in tasks:
            if claimed.holding is None:
                self._held[claimed.claim_id] += 1
        self._idle.clear()
        queue = tasks[0].queue
        last = next((claimed for claimed in reversed(self._buffer) if claimed.queue == queue), None)
        self._buffer.extend(tasks)
        order = self._order(queue)
        if last is not None and order(tasks[0]) < order(last):
            self._rearrange(queue, order)
        self._rouse()

    def _rearrange(self, queue: str, order: Order) -> None:
        """Put a queue's tasks in order, at the places that are theirs: priorities of several queues do not compare."""
        ordered = iter(sorted((claimed for claimed in self._buffer if claimed.queue == queue), key=order))
        self._buffer = deque(next(ordered) if claimed.queue == queue else claimed for claimed in self._buffer)

    def settled(self, settlement: Settlement) -> None:
        """It is written down: its claim is held no more."""
        claim_id = settlement.claimed.claim_id
        self._held[claim_id] -= 1
        if self._held[claim_id] <= 0:
            del self._held[claim_id]

    def cancel(self, task_id: str, claim_id: str) -> None:
        """Somebody asked to cancel this task: one in the buffer ends at once, a running one is told or interrupted."""
        for claimed, attempt in self._active.items():
            if claimed.id == task_id and claimed.claim_id == claim_id:
                attempt.cancel(interrupt=self._executor.execution_of(claimed) != "thread")
                return
        for claimed in self._buffer:
            if claimed.id == task_id and claimed.claim_id == claim_id:
                self._buffer.remove(claimed)
                self._complete(claimed, Outcome(Verdict.CANCELLED, reason="cancelled before it was started"))
                return

    def withdraw(self, batch: Batch) -> list[Claimed]:
        """Take what was not started of a batch back out of the buffer."""
        if not batch.unstarted:
            return []
        unstarted = [claimed for claimed in self._buffer if claimed.holding is batch]
        self._buffer = deque(claimed for claimed in self._buffer if claimed.holding is not batch)
        self._check_idle()
        return unstarted

    def running_of(self, batch: Batch) -> list[Claimed]:
        """What runs of a batch."""
        return [claimed for claimed in self._active if claimed.holding is batch] if batch.left else []

    def give_back(self) -> list[Claimed]:
        """Start nothing more; leased tasks that were not started go back as they came. Returns them; locked ones go with their
        batches."""
        self._closed = True
        unstarted = [claimed for claimed in self._buffer if claimed.holding is None]
        self._buffer = deque(claimed for claimed in self._buffer if claimed.holding is not None)
        for claimed in unstarted:
            self._completer.add(Settlement(claimed, RETURNED, True))
        self._check_idle()
        return unstarted

    def interrupt(self) -> int:
        """Stop what runs: it goes back, no attempt spent. Returns how many."""
        for attempt in list(self._active.values()):
            attempt.interrupt()
        return len(self._active)

    def __contains__(self, claimed: Claimed) -> bool:
        return claimed in self._active

    async def idle(self) -> None:
        """Wait until nothing runs and nothing is buffered."""
        await self._idle.wait()

    def close(self) -> None:
        """Let idle slots end. What still runs is left alone."""
        self._closed = True
        while self._resting:
            _wake(self._resting.pop())

    # ── a slot ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _rouse(self) -> None:
        """One slot more for what is buffered, if there is one; it rouses the next before it has to wait."""
        if not self._buffer or self._closed or len(self._active) >= self._concurrency:
            return
        if self._resting:
            _wake(self._resting.pop())
        elif len(self._slots) < self._concurrency:
            slot = asyncio.get_running_loop().create_task(self._serve(), context=self._empty.copy())
            self._slots.add(slot)
            slot.add_done_callback(self._slots.discard)

    async def _serve(self) -> None:
        """Run one attempt after the other."""
        me = asyncio.current_task()
        assert me is not None
        while not self._closed:
            if not self._buffer:
                await self._rest()
                continue
            attempt = self._begin(me)
            if attempt is None:
                await asyncio.sleep(0)
                continue
            outcome = attempt.outcome
            if attempt.rest is not None:
                self._rouse()
                try:
                    outcome = await _Within(attempt.rest, attempt.variables)
                # In here and no deeper: a GeneratorExit that comes out of a future closes every coroutine below this one.
                except BaseException as error:
                    outcome = self._executor.escaped(attempt, error)
            assert outcome is not None
            self._end(attempt, outcome)
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

    def _begin(self, slot: asyncio.Task[None]) -> Attempt | None:
        """Start the next task, and end it too if it never waits. None: the loop must have its turn first."""
        now = time.perf_counter()
        if not self._yield_at:
            self._yield_at = now + STREAK_SECONDS
            asyncio.get_running_loop().call_soon(self._renew)
        elif now > self._yield_at:
            return None
        claimed = self._buffer.popleft()
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
        self._prefetch.observe_duration(seconds)
        if self._paces is not None:
            self._paces.observe(claimed.type, seconds)
        self._complete(claimed, outcome, attempt.keeps_history)
        if not self._active and not self._buffer:
            self._idle.set()
        if len(self._active) + len(self._buffer) <= self.room_below:
            self._on_room()

    def _complete(self, claimed: Claimed, outcome: Outcome, keep: bool = True) -> None:
        settlement = Settlement(claimed, outcome, keep)
        if claimed.holding is not None:
            claimed.holding.finish(settlement)
        elif outcome.verdict is Verdict.SETTLED:
            self.settled(settlement)
        else:
            self._completer.add(settlement)

    def _check_idle(self) -> None:
        if not self._active and not self._buffer:
            self._idle.set()


class _Within:
    """Awaits a coroutine with every step of it in a context of its own."""

    __slots__ = ("_coroutine", "_variables")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], variables: contextvars.Context) -> None:
        self._coroutine = coroutine
        self._variables = variables

    def __await__(self) -> Generator[Any, Any, Any]:
        run, send, throw = self._variables.run, self._coroutine.send, self._coroutine.throw
        step: Callable[..., Any] = send
        argument: Any = None
        try:
            while True:
                waited_for = run(step, argument)
                try:
                    argument = yield waited_for
                    step = send
                except BaseException as error:
                    argument, step = error, throw
        except StopIteration as stop:
            return stop.value


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
