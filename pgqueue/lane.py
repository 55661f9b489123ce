"""A lane: one connection that claims, by lease or by lock. The claim's half of a task's way; claim.sql and lock.sql are run here.

By lease, a claim is written down and committed before its tasks start. By lock, the lane's transaction stays open while they
run: the row locks are the claim, free themselves when the connection dies, and a task costs one lock, one DELETE and one row of
history. `turn` is such a lane's cycle, in one round trip: settle what has ended, lease what has not, COMMIT, BEGIN, lock anew.
A queue that ages (aging.py) has statements of its own for both: claim_aged.sql, lock_aged.sql.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8BinaryLoader

from pgqueue.aging import PRIORITIES_LIMIT, Agings, Reach
from pgqueue.batch import Batch
from pgqueue.completer import Settlement, id_array, outcome_entry
from pgqueue.context import Claimed
from pgqueue.database import AsyncConnection, is_lost
from pgqueue.errors import PgQueueError
from pgqueue.link import Link
from pgqueue.outcomes import SUCCEEDED, Verdict
from pgqueue.statements import Statement, Statements
from pgqueue.watermark import WHOLE, Segments, Watermarks
from pgqueue.wire import Exchange, Reply

logger = logging.getLogger("pgqueue.lane")
REGAIN_SECONDS = 2.0
"""How long the tasks of a lost lane are waited for with what became of them."""
REGAIN_PAUSES = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Seconds between looks at rows that the server, ending the lost connection, has not let go of yet."""
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_RECORDED = (Verdict.SUCCEEDED, Verdict.CANCELLED, Verdict.IGNORED)


class LaneLost(Exception):
    """The lane's transaction is gone, and with it its locks; whether its last COMMIT happened is unknown. Never seen by users."""


@dataclass(slots=True)
class Opened:
    """What a lane has locked: `batch` None where nothing is held by lock. `leased`: owned once the transaction has committed."""

    queue: str
    claim_id: str
    batch: Batch | None = None
    leased: list[Claimed] = field(default_factory=list)
    claims_before: dict[str, str] = field(default_factory=dict)
    """Of the tasks that went back before: the claims that they went back with."""

    @property
    def count(self) -> int:
        return len(self.leased) + (0 if self.batch is None else len(self.batch.tasks))


@dataclass(slots=True)
class Closing:
    """How a batch is written down: recorded in history, removed without a trace, or leased to go on."""

    recorded: list[Settlement] = field(default_factory=list)
    discarded: list[Settlement] = field(default_factory=list)
    returned: list[Settlement] = field(default_factory=list)
    leased: list[Settlement] = field(default_factory=list)
    """Ended, but not in a way that a lane writes down: the completer does, for which they must be leased."""
    running: list[Claimed] = field(default_factory=list)

    @classmethod
    def of(cls, batch: Batch, running: list[Claimed]) -> Closing:
        closing = cls(running=running)
        for settlement in batch.finished:
            verdict = settlement.outcome.verdict
            if verdict in _RECORDED:
                (closing.recorded if settlement.keep else closing.discarded).append(settlement)
            elif verdict is Verdict.RETURNED:
                closing.returned.append(settlement)
            else:
                closing.leased.append(settlement)
        return closing

    def give_up_recording(self) -> None:
        """A value was refused, or the server is short of something: let the completer write these down, who has the patience."""
        self.leased += self.recorded + self.discarded
        self.recorded, self.discarded = [], []


class Lane:
    """Claims for one runner, queue by queue, each from the watermarks that the lanes of a runner share."""

    def __init__(
        self,
        sql: Statements,
        link: Link,
        *,
        runner_id: uuid.UUID,
        types: list[str],
        watermarks: Mapping[str, Watermarks],
        agings: Agings | None = None,
        patience_seconds: float = 0.0,
        limits: Callable[[AsyncConnection], dict[str, str]] = lambda connection: {},
    ) -> None:
        self._sql = sql
        self._link = link
        self._runner_id = str(runner_id)
        self._types = types  # no copy: it changes in place (policies.py)
        self._watermarks = watermarks
        self._agings = Agings() if agings is None else agings
        self._reach = Reach()
        self._patience_seconds = patience_seconds
        self._limits = limits
        self._segments = WHOLE
        self.round_trip_seconds = 0.0
        """How long the last claim took."""
        self.in_flight: tuple[str, ...] = ()
        """The claims whose answer may be on its way."""

    # ── by lease ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(self, queue: str, limit: int) -> list[Claimed]:
        """Up to `limit` tasks of this queue under a lease, in the order to run them. Commits. Raises what psycopg raises."""
        self._segments = self._watermarks[queue].segments()
        return self._in_order(queue, await self._claim(queue, limit, self._segments))

    async def _claim(self, queue: str, limit: int, segments: Segments) -> list[Claimed]:
        claim_id = str(uuid.uuid4())
        self.in_flight = (claim_id,)
        connection = await self._link.connection()
        started_at = time.monotonic()
        cursor = connection.cursor(binary=True)
        cursor.adapters.register_loader("timestamptz", Int8BinaryLoader)
        await cursor.execute(*self._pick(self._sql.claim, self._sql.claim_aged, queue, claim_id, limit, segments), prepare=True)
        rows = await cursor.fetchall()
        self._reach.found(len(rows), limit)
        self.round_trip_seconds = time.monotonic() - started_at
        return [Claimed(queue, claim_id, *row) for row in rows]

    # ── by lock ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, queue: str, limit: int, leased_types: Sequence[str]) -> Opened:
        """BEGIN and lock up to `limit` tasks. Raises what psycopg raises; then nothing is held."""
        return await self._turn(None, None, (queue, limit, leased_types))  # type: ignore[return-value]  # it opens

    async def turn(self, opened: Opened, closing: Closing, following: tuple[str, int, Sequence[str]] | None) -> Opened | None:
        """Write down what became of a batch, COMMIT, and open the next transaction if there is to be one.

        `closing` says afterwards what was done, which may be less than it asked for. Raises LaneLost.
        """
        try:
            return await self._turn(opened, closing, following)
        except (psycopg.Error, OSError) as error:
            connection = await self._still_open(error)
            closing.give_up_recording()
        try:
            exchange = Exchange(connection)
            exchange.add("ROLLBACK TO SAVEPOINT settle")
            self._lease(exchange, opened, closing)
            exchange.add("COMMIT")
            await exchange.run()
        except (psycopg.Error, OSError) as error:
            await self._link.drop()
            raise LaneLost(str(error)) from error
        return None

    async def regain(self, opened: Opened, claims: Sequence[Claimed]) -> tuple[set[str], set[str]]:
        """After LaneLost: lease what nobody has owned since, and see what the last COMMIT had written down.

        Returns the ids of what is leased now, by that COMMIT too, and of what has ended. Gives up soon where the server is away;
        then both are empty.
        """
        if not claims:
            return set(), set()
        ordered = sorted(claims, key=lambda claimed: claimed.id)
        try:
            async with asyncio.timeout(REGAIN_SECONDS):
                await self._link.wait_until_up()
                owned = await self._regained(opened, ordered)
                missing = [claimed.id for claimed in ordered if claimed.id not in owned]
                ended = await self._link.rows(
                    self._sql.settled_claims(queue=opened.queue, ids=missing, claim_ids=[opened.claim_id for _ in missing])
                )
        except (psycopg.Error, PgQueueError, OSError, TimeoutError) as error:
            await self._link.drop()
            logger.info("could not regain what a lost lane had locked: %s", str(error).strip().partition("\n")[0])
            return set(), set()
        return owned, {row[0] for row in ended}

    async def _regained(self, opened: Opened, claims: Sequence[Claimed]) -> set[str]:
        owned: set[str] = set()
        before = json.dumps(opened.claims_before)
        for pause_seconds in (*REGAIN_PAUSES, None):
            rows = await self._link.rows(self._sql.regain(**self._fence(opened, claims), claims_before=before))
            owned |= {id for id, is_ours in rows if is_ours}
            skipped = {id for id, is_ours in rows if not is_ours}
            if pause_seconds is None or not skipped:
                break
            claims = [claimed for claimed in claims if claimed.id in skipped]
            await asyncio.sleep(pause_seconds)
        return owned

    async def end(self) -> None:
        """COMMIT: nothing is held by lock. Raises what psycopg raises."""
        await (await self._link.connection()).execute("COMMIT")

    def watch(self, batch: Batch) -> Callable[[], None]:
        """Close the batch as soon as the server says anything: in an open transaction it speaks unasked only to end it.

        Returns what stops watching.
        """
        loop, number = asyncio.get_running_loop(), self._link.fileno()
        if number is None:
            batch.close_soon()
            return lambda: None
        loop.add_reader(number, batch.close_soon)
        return lambda: _unwatch(loop, number)

    async def _turn(
        self, opened: Opened | None, closing: Closing | None, following: tuple[str, int, Sequence[str]] | None
    ) -> Opened | None:
        connection = await self._link.connection()
        if opened is not None and connection.info.transaction_status is not TransactionStatus.INTRANS:
            raise psycopg.OperationalError("the lane's transaction is gone")  # the link has a new connection
        started_at = time.monotonic()
        exchange = Exchange(connection)
        committed = locked = None
        if opened is not None and closing is not None:
            self._settle(exchange, opened, closing)
            self._lease(exchange, opened, closing)
            committed = exchange.add("COMMIT")
        claim_id = str(uuid.uuid4())
        self.in_flight = (claim_id,) if opened is None else (opened.claim_id, claim_id)
        if following is not None:
            exchange.add(BEGIN)
            self._bound(exchange)
            locked = self._lock(exchange, claim_id, *following)
        try:
            await exchange.run()
        except (psycopg.Error, OSError) as error:
            if committed is None or not committed.is_done:
                raise
            # What was to be written down is; only the new transaction failed.
            logger.warning("a claim failed, trying on: %s", str(error).strip().partition("\n")[0])
            await self._link.drop()
            return None
        if following is None or locked is None:
            return None
        self.round_trip_seconds = time.monotonic() - started_at
        rows = exchange.rows(locked)
        self._reach.found(len(rows), following[1])
        return self._opened(following[0], claim_id, rows)

    def _settle(self, exchange: Exchange, opened: Opened, closing: Closing) -> None:
        if closing.recorded:
            outcomes = [outcome_entry(s.claimed.id, s.outcome) for s in closing.recorded if s.outcome is not SUCCEEDED]
            fence = self._fence(opened, [settlement.claimed for settlement in closing.recorded])
            exchange.add("SAVEPOINT settle")
            exchange.add(self._sql.record.text, {**fence, "outcomes": "{" + ",".join(outcomes) + "}" if outcomes else None})
            exchange.add("RELEASE SAVEPOINT settle")
        if done := closing.recorded + closing.discarded:
            exchange.add(self._sql.remove.text, self._fence(opened, [settlement.claimed for settlement in done]))

    def _lease(self, exchange: Exchange, opened: Opened, closing: Closing) -> None:
        claims = [settlement.claimed for settlement in closing.leased] + closing.running
        if claims:
            claims.sort(key=lambda claimed: claimed.id)
            exchange.add(self._sql.lease.text, self._fence(opened, claims))

    def _fence(self, opened: Opened, claims: Sequence[Claimed]) -> dict[str, Any]:
        return {
            "queue": opened.queue,
            "ids": id_array(claims),
            "runner_id": self._runner_id,
            "claim_id": opened.claim_id,
            "claimed_at": claims[0].claimed_at,
        }

    def _bound(self, exchange: Exchange) -> None:
        if limits := self._limits(exchange.connection):
            exchange.add(self._sql.lane_limits.text, {"names": list(limits), "values": list(limits.values())})

    def _lock(self, exchange: Exchange, claim_id: str, queue: str, limit: int, leased_types: Sequence[str]) -> Reply:
        self._segments = self._watermarks[queue].segments()
        text, parameters = self._pick(self._sql.lock, self._sql.lock_aged, queue, claim_id, limit, self._segments)
        return exchange.add(text, {**parameters, "leased_types": list(leased_types)})

    def _opened(self, queue: str, claim_id: str, rows: Sequence[tuple[Any, ...]]) -> Opened:
        opened = Opened(queue, claim_id)
        locked: list[Claimed] = []
        for row in rows:
            (opened.leased if row[10] else locked).append(Claimed(queue, claim_id, *row[:10]))
            if row[11] is not None:
                opened.claims_before[row[0]] = row[11]
        self._in_order(queue, opened.leased)
        if locked:
            opened.batch = batch = Batch(self._in_order(queue, locked), patience_seconds=self._patience_seconds)
            for claimed in locked:
                claimed.holding = batch
        return opened

    async def _still_open(self, error: BaseException) -> AsyncConnection:
        """The connection, if its transaction is still there after this error: then its locks are too. Raises LaneLost."""
        connection = None if isinstance(error, OSError) or is_lost(error) else await self._link.connection()
        if connection is None or connection.info.transaction_status is not TransactionStatus.INERROR:
            await self._link.drop()
            raise LaneLost(str(error)) from error
        logger.warning("finished tasks are written down one by one: %s", str(error).strip().partition("\n")[0])
        return connection

    # ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def give_back(self, returned: Iterable[Claimed]) -> None:
        """These go back to the queue as they came: the watermarks go back to them."""
        for claimed in returned:
            self.retreat(claimed.queue, claimed.priority, claimed.maturity_at, claimed.id)

    def retreat(self, queue: str, priority: int, maturity_at: datetime, id: str) -> None:
        """A task of this key is ready (again)."""
        self._watermarks[queue].retreat(priority, maturity_at, id)

    def _pick(
        self, strict: Statement, aged: Statement, queue: str, claim_id: str, limit: int, segments: Segments
    ) -> tuple[str, dict[str, Any]]:
        """The statement that picks in this queue's order, with its parameters."""
        parameters = self._parameters(queue, claim_id, limit, segments)
        aging = self._agings.of(queue)
        if aging is None:
            return strict.text, parameters
        return aged.text, {**parameters, "aging": aging, "reach": self._reach.of(limit), "priorities": PRIORITIES_LIMIT}

    def _parameters(self, queue: str, claim_id: str, limit: int, segments: Segments) -> dict[str, Any]:
        return {
            "queue": queue,
            "types": self._types,
            "runner_id": self._runner_id,
            "claim_id": claim_id,
            "limit": limit,
            "first_priorities": segments.first_priorities,
            "maturities": segments.maturities,
            "ids": segments.ids,
            "last_priorities": segments.last_priorities,
        }

    def _in_order(self, queue: str, tasks: list[Claimed]) -> list[Claimed]:
        """Sorted to run, and the watermarks moved past them."""
        # The order of RETURNING is no order.
        tasks.sort(key=self._agings.order(queue))
        # The last of each priority is the farthest.
        self._watermarks[queue].advance({claimed.priority: claimed for claimed in tasks}.values(), len(tasks), self._segments)
        return tasks


def _unwatch(loop: asyncio.AbstractEventLoop, number: int) -> None:
    if not loop.is_closed():
        loop.remove_reader(number)
