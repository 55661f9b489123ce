"""What a runner has in hand: the claimed tasks that wait for a slot, the attempts that run, and the leases held for both.

`Slots` (slots.py) runs them; whoever looks for, cancels or gives back a task asks here.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from pgqueue.aging import Order
from pgqueue.batch import Batch
from pgqueue.calls import Call
from pgqueue.completer import Completer, Settlement
from pgqueue.context import Claimed
from pgqueue.executor import Attempt, Executor
from pgqueue.outcomes import RETURNED, Outcome, Verdict


class Hand:
    """Up to `concurrency` attempts, and a buffer of claimed tasks behind them. Lives on one event loop."""

    def __init__(
        self,
        *,
        concurrency: int,
        executor: Executor,
        completer: Completer,
        batch_sizes: Mapping[str, int],
        order: Callable[[str], Order],
    ) -> None:
        self._concurrency = concurrency
        self._executor = executor
        self._completer = completer
        self._batch_sizes = batch_sizes
        self._order = order
        self._buffer: deque[Claimed] = deque()
        self._active: dict[Claimed, Attempt] = {}
        self._running_calls: set[Call] = set()
        self._sharing_count = 0
        """Attempts that run in a slot that another one is counted for."""
        self._held: Counter[str] = Counter()
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active_count(self) -> int:
        """Attempts that run now."""
        return len(self._active)

    @property
    def in_hand(self) -> int:
        """Slots that are taken and tasks that wait for one; 0 only where no claimed task is unfinished."""
        return len(self._active) - self._sharing_count + len(self._buffer)

    @property
    def free_count(self) -> int:
        """Slots that are not taken."""
        return self._concurrency - len(self._active) + self._sharing_count

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
        """Take claimed tasks of one queue, in the order to run them."""
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
                # The others of its call would be interrupted with it.
                is_alone = claimed.type not in self._batch_sizes
                attempt.cancel(interrupt=is_alone and self._executor.execution_of(claimed) != "thread")
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
        for attempt in self._active.values():
            attempt.interrupt()
        for call in self._running_calls:
            call.interrupt()
        return len(self._active)

    def __contains__(self, claimed: Claimed) -> bool:
        return claimed in self._active

    async def idle(self) -> None:
        """Wait until nothing runs and nothing is buffered."""
        await self._idle.wait()

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
