"""The slots of a runner: what it holds, what it runs, and the way of each attempt from its claim to the completer."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from pgqueue.board import Board
from pgqueue.completer import Completer, Settlement
from pgqueue.context import Claimed, Services
from pgqueue.executor import Attempt, Executor
from pgqueue.outcomes import RETURNED, Outcome, Verdict
from pgqueue.prefetch import Prefetch

logger = logging.getLogger("pgqueue.slots")
_EAGER = sys.version_info >= (3, 12)


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
        on_room: Callable[[], None],
        on_start: Callable[[Claimed], None] | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._executor = executor
        self._completer = completer
        self._prefetch = prefetch
        self._services = services
        self._board = board
        self._on_room = on_room
        self._on_start = on_start
        self._buffer: deque[Claimed] = deque()
        self._active: dict[Claimed, Attempt] = {}
        self._held: Counter[str] = Counter()
        self._empty = contextvars.Context()
        self._filling = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

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
        """The claims of which something is not settled yet. Safe from another thread."""
        return [claim for claim, count in list(self._held.items()) if count > 0]

    def offer(self, batch: Sequence[Claimed]) -> None:
        """Take a claimed batch, in the order to run it, and start what there are slots for."""
        if not batch:
            return
        self._held[batch[0].claim_id] += 0  # present before the first settles
        for claimed in batch:
            self._held[claimed.claim_id] += 1
        overtakes = bool(self._buffer) and batch[0].priority > self._buffer[-1].priority
        self._buffer.extend(batch)
        if overtakes:
            self._buffer = deque(sorted(self._buffer, key=lambda claimed: (-claimed.priority, claimed.maturity_at, claimed.id)))
        self._fill()

    def settled(self, settlement: Settlement) -> None:
        """The completer is done with it: its claim is held no more."""
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

    def give_back(self) -> list[Claimed]:
        """Start nothing more; what was not started goes back as it came. Returns it."""
        self._closed = True
        unstarted = list(self._buffer)
        self._buffer.clear()
        for claimed in unstarted:
            self._completer.add(Settlement(claimed, RETURNED, True))
        self._check_idle()
        return unstarted

    def interrupt(self) -> int:
        """Stop what runs: it goes back, no attempt spent. Returns how many."""
        for attempt in list(self._active.values()):
            attempt.interrupt()
        return len(self._active)

    async def idle(self) -> None:
        """Wait until nothing runs and nothing is buffered."""
        await self._idle.wait()

    def _fill(self) -> None:
        """Start what there are slots for. An eager attempt may end inside `_start`: the loop, not recursion, takes the next."""
        if self._filling:
            return
        self._filling = True
        try:
            while self._buffer and len(self._active) < self._concurrency and not self._closed:
                self._start(self._buffer.popleft())
        finally:
            self._filling = False

    def _start(self, claimed: Claimed) -> None:
        attempt = Attempt(claimed, self._services)
        attempt.started_at = time.perf_counter()
        self._active[claimed] = attempt
        self._idle.clear()
        if self._on_start is not None:
            self._on_start(claimed)
        loop = asyncio.get_running_loop()
        if _EAGER:
            attempt.future = asyncio.Task(self._run(attempt), loop=loop, context=self._empty.copy(), eager_start=True)  # type: ignore[call-arg]
        else:
            attempt.future = loop.create_task(self._run(attempt), context=self._empty.copy())

    async def _run(self, attempt: Attempt) -> None:
        """One attempt in an empty context of its own, so that no variable leaks from one task to the next."""
        try:
            outcome = await self._executor.execute(attempt)
        except BaseException as error:
            outcome = self._executor.escaped(attempt, error)
        self._board.ended(attempt.position)
        claimed = attempt.claimed
        del self._active[claimed]
        self._prefetch.observe_duration(time.perf_counter() - attempt.started_at)
        self._complete(claimed, outcome, attempt.keeps_history)
        self._fill()
        self._check_idle()
        self._on_room()

    def _complete(self, claimed: Claimed, outcome: Outcome, keep: bool = True) -> None:
        settlement = Settlement(claimed, outcome, keep)
        if outcome.verdict is Verdict.SETTLED:
            self.settled(settlement)
        else:
            self._completer.add(settlement)

    def _check_idle(self) -> None:
        if not self._active and not self._buffer:
            self._idle.set()
