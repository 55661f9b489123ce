"""The completer: gathers outcomes and settles them in batches. The last station on a task's way: it runs settle.sql.

Outcomes gather while the previous flush is in flight, so an idle system settles at once and a busy one in hundreds. Every
statement is fenced by id and claim and says which rows it settled; a missing id is a lost lease: counted, logged, no error.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg

from pgqueue.context import Claimed
from pgqueue.database import is_lost, is_refused_value
from pgqueue.errors import DatabaseUnavailable
from pgqueue.link import Link
from pgqueue.outcomes import SUCCEEDED, Failure, Outcome, Verdict
from pgqueue.statements import Statement, Statements

logger = logging.getLogger("pgqueue.completer")
BATCH_MAX = 1_000
"""Rows that one settle carries at most."""
GATHER_MIN = 250
GATHER_PAUSE_SECONDS = 0.001
GATHER_SECONDS_MAX = 0.005
"""A busy runner waits this long for a settle to be worth its round trip; an idle one settles at once."""
DEADLOCK_TRIES_MAX = 5
PAUSE_MAX_SECONDS = 5.0
UNSTORABLE = "its outcome could not be stored"

_HISTORY_STATUS = {Verdict.SUCCEEDED: "succeeded", Verdict.CANCELLED: "cancelled", Verdict.IGNORED: "ignored"}
_RELEASED = (Verdict.RETRIED, Verdict.SNOOZED, Verdict.RETURNED)


class Settlement(NamedTuple):
    """An attempt with what it came to; `keep` is False where its type keeps no history."""

    claimed: Claimed
    outcome: Outcome
    keep: bool


class Completer:
    """Settles what is added to it, until `close` has flushed the rest."""

    def __init__(
        self,
        sql: Statements,
        link: Link,
        *,
        runner_id: uuid.UUID,
        on_settled: Callable[[Settlement, bool], None] | None = None,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sql = sql
        self._link = link
        self._runner_id = str(runner_id)
        self._on_settled = on_settled
        self._is_busy = is_busy
        self._waiting: list[Settlement] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self.lost_lease_count = 0

    def add(self, settlement: Settlement) -> None:
        """Settle this with the next flush. Called on the event loop's thread."""
        self._waiting.append(settlement)
        self._wake.set()
        self._idle.clear()

    async def flushed(self) -> None:
        """Wait until everything added so far is written down."""
        await self._idle.wait()

    def close(self) -> None:
        """Let `run` end once everything is written down."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Flush until closed. Outlives every outage of the database; what it holds is settled after it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._gather()
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                await self._flush(batch)
            self._idle.set()
            if self._closing:
                return

    async def _gather(self) -> None:
        """While tasks wait for slots, outcomes come by the hundred: a moment's patience saves most of the round trips."""
        deadline = time.monotonic() + GATHER_SECONDS_MAX
        while len(self._waiting) < GATHER_MIN and self._is_busy() and time.monotonic() < deadline:  # noqa: ASYNC110  # an event for every outcome would cost more than this saves
            await asyncio.sleep(GATHER_PAUSE_SECONDS)

    async def _flush(self, batch: list[Settlement]) -> None:
        for (queue, statement, arrange), part in _grouped(self._sql, batch).items():
            part.sort(key=lambda settlement: settlement.claimed.id)
            for once in _each_task_once(part):
                await self._settle_with_patience(queue, statement, arrange, once)

    async def _settle_with_patience(self, queue: str, statement: Statement, arrange: Arrange, part: list[Settlement]) -> None:
        """Settle one statement's rows, through lost connections, deadlocks and refused rows."""
        uncertain, tries = False, 0
        while True:
            try:
                settled = await self._execute(statement, {**arrange(part), "queue": queue, "runner_id": self._runner_id})
                if uncertain and len(settled) < len(part):
                    settled |= await self._settled_before(queue, part, settled)
                self._report(part, settled)
                return
            except (psycopg.Error, DatabaseUnavailable, OSError) as error:
                tries += 1
                if isinstance(error, OSError) or is_lost(error):
                    # Whether it committed is unknown: repeat, and look up by claim what is missing then.
                    uncertain = True
                    await self._reconnect(error)
                elif is_refused_value(error):
                    await self._split(queue, statement, arrange, part, error)
                    return
                elif tries >= DEADLOCK_TRIES_MAX:
                    logger.error("cannot settle %s tasks of queue %s (%s); trying on", len(part), queue, error)
                    await asyncio.sleep(min(PAUSE_MAX_SECONDS, 0.1 * tries))
                    await self._reconnect(error)

    async def _execute(self, statement: Statement, parameters: dict[str, Any]) -> set[str]:
        connection = await self._link.connection()
        cursor = await connection.execute(statement.text, parameters, prepare=True)
        return {row[0] for row in await cursor.fetchall()}

    async def _settled_before(self, queue: str, part: list[Settlement], settled: set[str]) -> set[str]:
        """Of those that a repeated settle did not find, the ones that the uncertain one before had written down."""
        missing = [settlement for settlement in part if settlement.claimed.id not in settled]
        return await self._execute(self._sql.settled_claims, {**_fence(missing), "queue": queue})

    async def _reconnect(self, error: BaseException) -> None:
        logger.warning(
            "the settle of finished tasks was interrupted (%s); it will be repeated", str(error).strip().partition("\n")[0]
        )
        await self._link.drop()
        await asyncio.sleep(0.05)
        await self._link.wait_until_up()

    async def _split(
        self, queue: str, statement: Statement, arrange: Arrange, part: list[Settlement], error: BaseException
    ) -> None:
        """PostgreSQL refused a value: halve until the culprit stands alone, and bury that one with the reason."""
        if len(part) > 1:
            middle = len(part) // 2
            await self._settle_with_patience(queue, statement, arrange, part[:middle])
            await self._settle_with_patience(queue, statement, arrange, part[middle:])
            return
        if part[0].outcome.reason == UNSTORABLE:
            logger.critical("%s %s can be neither settled nor buried: %s", part[0].claimed.type, part[0].claimed.id, error)
            self._report(part, set())
            return
        logger.error(
            "the outcome of %s %s cannot be stored and the task is dead: %s", part[0].claimed.type, part[0].claimed.id, error
        )
        reason = UNSTORABLE if statement is self._sql.bury else f"{UNSTORABLE}: {_plain(str(error))}"
        refused = Outcome(Verdict.DEAD, reason=reason, failure=Failure(type(error).__name__, reason, None))
        await self._settle_with_patience(queue, self._sql.bury, _bury, [part[0]._replace(outcome=refused)])

    def _report(self, part: list[Settlement], settled: set[str]) -> None:
        if len(settled) < len(part):
            for settlement in part:
                if settlement.claimed.id not in settled:
                    self.lost_lease_count += 1
                    claimed = settlement.claimed
                    logger.warning(
                        "lease lost: attempt %s of %s %s was settled elsewhere; its outcome is dropped",
                        claimed.attempt, claimed.type, claimed.id,
                    )  # fmt: skip
        if self._on_settled is not None:
            for settlement in part:
                self._on_settled(settlement, settlement.claimed.id in settled)


Arrange = Callable[[Sequence[Settlement]], dict[str, Any]]


def _grouped(sql: Statements, batch: list[Settlement]) -> dict[tuple[str, Statement, Arrange], list[Settlement]]:
    """The batch by queue and by the statement that settles it."""
    parts: dict[tuple[str, Verdict, bool], list[Settlement]] = {}
    for settlement in batch:
        parts.setdefault((settlement.claimed.queue, settlement.outcome.verdict, settlement.keep), []).append(settlement)
    groups: dict[tuple[str, Statement, Arrange], list[Settlement]] = {}
    for (queue, verdict, keep), part in parts.items():
        groups.setdefault((queue, *_way(sql, verdict, keep)), []).extend(part)
    return groups


def _each_task_once(part: list[Settlement]) -> list[list[Settlement]]:
    """The part, sorted by id, in as many as it takes: a task that this runner has run under two claims, since it lost the first,
    stands in it twice, and what a statement settled is known by id."""
    again = [later for earlier, later in pairwise(part) if earlier.claimed.id == later.claimed.id]
    if not again:
        return [part]
    first = [later for earlier, later in pairwise(part) if earlier.claimed.id != later.claimed.id]
    return [[part[0], *first], *_each_task_once(again)]


def _way(sql: Statements, verdict: Verdict, keep: bool) -> tuple[Statement, Arrange]:
    """The statement that writes such a verdict down, and what arranges its parameters."""
    if verdict in _HISTORY_STATUS:
        return (sql.settle, _settle) if keep else (sql.discard, _fence)
    return (sql.release, _release) if verdict in _RELEASED else (sql.bury, _bury)


def _fence(part: Sequence[Settlement]) -> dict[str, Any]:
    """Ids and claims as array literals: joining text is far cheaper than adapting UUIDs one by one."""
    return {
        "ids": "{" + ",".join([settlement.claimed.id for settlement in part]) + "}",
        "claim_ids": "{" + ",".join([settlement.claimed.claim_id for settlement in part]) + "}",
    }


def _settle(part: Sequence[Settlement]) -> dict[str, Any]:
    """Claims and outcomes as JSON objects by id; plain successes without a result are left out of the outcomes."""
    return {
        "ids": "{" + ",".join([settlement.claimed.id for settlement in part]) + "}",
        "claims": claims_object([settlement.claimed for settlement in part]),
        "outcomes": "{" + ",".join([outcome_entry(s.claimed.id, s.outcome) for s in part if s.outcome is not SUCCEEDED]) + "}",
    }


def id_array(claims: Sequence[Claimed]) -> str:
    """Ids as an array literal: joining text is far cheaper than adapting UUIDs one by one."""
    return "{" + ",".join([claimed.id for claimed in claims]) + "}"


def claims_object(claimed: Sequence[Claimed]) -> str:
    """A JSON object of id to claim, as settle.sql takes it."""
    return "{" + ",".join([f'"{one.id}":"{one.claim_id}"' for one in claimed]) + "}"


def outcome_entry(id: str, outcome: Outcome) -> str:
    """One entry of the JSON object of outcomes; the result is JSON already."""
    kept = "" if outcome.result is None else f',"result":{outcome.result}'
    reason = "" if outcome.reason is None else f',"reason":{json.dumps(outcome.reason)}'
    return f'"{id}":{{"status":"{_HISTORY_STATUS[outcome.verdict]}"{kept}{reason}}}'


def _release(part: Sequence[Settlement]) -> dict[str, Any]:
    return {
        **_fence(part),
        **_failures(part),
        "delays": [None if s.outcome.verdict is Verdict.RETURNED else s.outcome.delay_seconds for s in part],
        "refunds": [0 if s.outcome.verdict is Verdict.RETRIED else 1 for s in part],
        "marks": [s.outcome.mark for s in part],
    }


def _bury(part: Sequence[Settlement]) -> dict[str, Any]:
    return {**_fence(part), **_failures(part), "reasons": [settlement.outcome.reason for settlement in part]}


def _failures(part: Sequence[Settlement]) -> dict[str, Any]:
    failures = [settlement.outcome.failure for settlement in part]
    return {
        "error_types": [None if failure is None else failure.error_type for failure in failures],
        "errors": [None if failure is None else failure.error for failure in failures],
        "tracebacks": [None if failure is None else failure.traceback for failure in failures],
    }


def _plain(text: str) -> str:
    return " ".join(text.replace("\0", "").split())[:500]
