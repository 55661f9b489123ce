"""The claiming of one runner: its lanes, each a loop that claims for free slots and a little ahead, queue by queue in turn.

While some type is quick, lanes lock first (lane.py): two of them, so that tasks run while the other's round trip is under way.
Otherwise, and wherever a queue was found empty, they claim by lease, which is one statement a look.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import psycopg

from pgqueue.batch import Batch
from pgqueue.completer import Completer, Settlement
from pgqueue.errors import PgQueueError
from pgqueue.lane import Closing, Lane, LaneLost, Opened
from pgqueue.link import Link
from pgqueue.listener import Listener
from pgqueue.outcomes import Verdict
from pgqueue.paces import Paces
from pgqueue.prefetch import Prefetch
from pgqueue.slots import Slots
from pgqueue.turns import Turns

logger = logging.getLogger("pgqueue.runner")
FAILURE_PAUSE_SECONDS = 0.2
"""After a failed claim: an error that persists must not spin."""


class Claiming:
    """Keeps the slots supplied until told to stop."""

    def __init__(
        self,
        lanes: Sequence[tuple[Lane, Link]],
        *,
        turns: Turns,
        prefetch: Prefetch,
        slots: Slots,
        completer: Completer,
        paces: Paces,
        claim_limit: int,
        poll_seconds: float,
        lane_count: Callable[[], int] = lambda: 1,
        is_drained: Callable[[], Awaitable[bool]] | None = None,
        run_alone: Callable[[], Awaitable[bool]] | None = None,
        on_settled: Callable[[Settlement, bool], None] = lambda settlement, is_ours: None,
        on_lane: Callable[[float], None] = lambda opened_at: None,
        listener: Listener | None = None,
    ) -> None:
        self._lanes = list(lanes)
        self._turns = turns
        self._prefetch = prefetch
        self._slots = slots
        self._completer = completer
        self._paces = paces
        self._claim_limit = claim_limit
        self._poll_seconds = poll_seconds
        self._lane_count = lane_count
        self._is_drained = is_drained
        self._run_alone = run_alone
        self._on_settled = on_settled
        self._on_lane = on_lane
        self._listener = listener
        self._waiting_shares: deque[tuple[str, int]] = deque()
        self._batches: dict[Batch, float] = {}
        self._stopping = asyncio.Event()
        self._look = _Signal()
        self._regaining = 0
        self.paused = False

    @property
    def lanes(self) -> int:
        """How many there are at most."""
        return len(self._lanes)

    def in_flight(self) -> list[str]:
        """The claims whose answers may be on their way."""
        return [claim_id for lane, _ in self._lanes for claim_id in lane.in_flight]

    def look(self) -> None:
        """Look at the queues now: there may be tasks, or room."""
        self._look.send()

    def stop(self) -> None:
        """Claim no more, and close what is open; `run` ends when that is done."""
        self._stopping.set()
        self._look.send()
        for batch in self._batches:
            batch.close_soon()

    async def run(self, number: int) -> None:
        """The life of one lane, until stopped; with `drain` the first ends once nothing is left."""
        lane, link = self._lanes[number]
        while not self._stopping.is_set():
            seen = self._look.count
            if self.paused or number >= max(1, self._lane_count()):
                self._keep_awake(self.paused)
                await self._look.wait(seen, self._poll_seconds)
                continue
            want = self._want()
            following = self._next(want, number)
            try:
                if following is not None:
                    await self._round(lane, *following)
                    continue
                if want and number == 0 and self._run_alone is not None and await self._run_alone():
                    continue
                if want and number == 0 and self._is_drained is not None and await self._is_drained():
                    return
            except (psycopg.Error, PgQueueError, OSError) as error:
                await self._wait_out(link, error)
                continue
            if want and number == 0 and self._turns.is_drowsy and self._listener is not None:
                self._listener.rest()
            await self._look.wait(seen, self._turns.pause(time.monotonic()) if want and number == 0 else self._poll_seconds)

    # ── what to claim ───────────────────────────────────────────────────────────────────────────────────────────────

    def _want(self) -> int:
        """How many tasks to claim now; 0, and word when there is room, while that would be too few to be worth a round trip.

        None while a lane regains what it has lost: another lane of ours would run it a second time.
        """
        if self._regaining:
            return 0
        want = self._prefetch.request(self._slots.in_hand, self._slots.free_count)
        self._slots.room_below = self._prefetch.room_below() if not want else -1
        return min(want, self._claim_limit)

    def _next(self, want: int, number: int) -> tuple[str, int] | None:
        """A queue, and how many to claim of it. Only the first lane looks at queues that were found empty."""
        if not want:
            return None
        if not self._waiting_shares:
            self._waiting_shares.extend(self._turns.shares(want, time.monotonic()))
        for _ in range(len(self._waiting_shares)):
            queue, share = self._waiting_shares.popleft()
            if number == 0 or not self._turns.is_resting(queue):
                return queue, min(share, want)
            self._waiting_shares.append((queue, share))
        return None

    @property
    def _may_lock(self) -> bool:
        return self._paces.any_quick and self._lane_count() > 0

    # ── one round ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _round(self, lane: Lane, queue: str, share: int) -> None:
        if self._may_lock and not self._turns.is_resting(queue):
            opened: Opened | None = await lane.open(queue, share, self._paces.slow)
            while opened is not None:
                self._took(lane, opened.queue, opened.count)
                opened = await self._work_off(lane, opened)
        else:
            tasks = await lane.claim(queue, share)
            self._took(lane, queue, len(tasks))
            self._slots.offer(tasks)

    async def _work_off(self, lane: Lane, opened: Opened) -> Opened | None:
        """Let the slots run what is locked, until it is time to close; what the next transaction has locked, if there is one."""
        batch = opened.batch
        if batch is None:
            await lane.end()
            self._slots.offer(opened.leased)
            return None
        unwatch = lane.watch(batch)
        self._track(batch, time.monotonic() - lane.round_trip_seconds)
        try:
            self._slots.offer(batch.tasks)
            if self._stopping.is_set():
                batch.close_soon()
            await batch.due()
        finally:
            unwatch()
            self._track(batch, None)
        return await self._close(lane, opened, batch)

    async def _close(self, lane: Lane, opened: Opened, batch: Batch) -> Opened | None:
        batch.close()
        lane.give_back(self._slots.withdraw(batch))
        closing = Closing.of(batch, self._slots.running_of(batch))
        following, lost = None, frozenset[str]()
        if not (self._stopping.is_set() or self.paused) and self._may_lock:
            queue = self._next(self._want(), 1)
            following = None if queue is None else (*queue, self._paces.slow)
        try:
            result = await lane.turn(opened, closing, following)
        except LaneLost as error:
            lost = await self._regain(lane, opened, closing, error)
            result = None
        self._hand_over(lane, opened, batch, closing, lost)
        return result

    async def _regain(self, lane: Lane, opened: Opened, closing: Closing, error: LaneLost) -> frozenset[str]:
        """What became of a lane's tasks after its connection was lost. Returns the ids of those that are not ours any more."""
        uncertain = closing.recorded + closing.discarded
        claims = [settlement.claimed for settlement in uncertain + closing.leased] + closing.running + opened.leased
        self._regaining += 1
        try:
            owned, ended = await lane.regain(opened, claims)
        finally:
            self._regaining -= 1
            self._look.send()
        opened.leased = [claimed for claimed in opened.leased if claimed.id in owned]
        closing.recorded = [settlement for settlement in uncertain if settlement.claimed.id in ended]
        closing.discarded = []
        closing.leased += [settlement for settlement in uncertain if settlement.claimed.id not in ended]
        lost = frozenset(claimed.id for claimed in claims) - owned - ended
        lane.give_back(claimed for claimed in claims if claimed.id in lost)
        logger.warning(
            "a lane's connection was lost: of %s tasks in it %s are leased now, %s were written down, and %s run again (%s)",
            len(claims), len(owned), len(ended), len(lost), str(error).strip().partition("\n")[0],
        )  # fmt: skip
        return lost

    def _hand_over(self, lane: Lane, opened: Opened, batch: Batch, closing: Closing, lost: frozenset[str]) -> None:
        """Say what was written down, and give to the completer what has to go another way.

        What was lost goes there too: its fence tells, and counts, that the task is not ours.
        """
        for settlement in closing.recorded + closing.discarded:
            self._on_settled(settlement, True)
        lane.give_back(settlement.claimed for settlement in closing.returned)
        leased = closing.leased + batch.late
        self._slots.hold(opened.claim_id, len(leased) + sum(claimed in self._slots for claimed in closing.running))
        for claimed in closing.running:
            claimed.holding = None
        for settlement in leased:
            settlement.claimed.holding = None
            if settlement.outcome.verdict is Verdict.SETTLED:
                self._slots.settled(settlement)
            else:
                self._completer.add(settlement)
        batch.ended(lost)
        self._slots.offer(opened.leased)

    def _track(self, batch: Batch, opened_at: float | None) -> None:
        if opened_at is None:
            self._batches.pop(batch, None)
        else:
            self._batches[batch] = opened_at
        self._on_lane(min(self._batches.values(), default=0.0))

    def _took(self, lane: Lane, queue: str, count: int) -> None:
        now = time.monotonic()
        self._prefetch.observe_round_trip(lane.round_trip_seconds, now)
        was_resting = self._turns.is_resting(queue)
        self._turns.found(queue, count, now)
        self._keep_awake(count > 0)
        if count and was_resting:
            self._look.send()  # the other lanes may help

    def _keep_awake(self, is_busy: bool) -> None:
        """While there is work, or while paused, nobody has to be told of more."""
        if is_busy and self._listener is not None:
            self._listener.busy()

    async def _wait_out(self, link: Link, error: BaseException) -> None:
        logger.warning("a claim failed, trying on: %s", str(error).strip().partition("\n")[0])
        await link.drop()
        try:
            await asyncio.wait_for(self._stopping.wait(), FAILURE_PAUSE_SECONDS)
        except TimeoutError:
            await link.wait_until_up(stop=self._stopping)


class _Signal:
    """Wakes everybody who waits. Nothing is lost between a look and the wait: whoever saw an older count does not wait."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def send(self) -> None:
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seen: int, seconds: float) -> None:
        """Until there was a signal since `seen`, or for so long."""
        if self.count != seen:
            return
        try:
            await asyncio.wait_for(self._event.wait(), max(seconds, 0.001))
        except TimeoutError:
            return
