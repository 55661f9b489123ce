"""`Context`: what a running attempt may know and do, as `self.context`.

Ground: it holds values and asks the engine, through `Services`, for whatever touches the database.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from pgqueue.errors import PgQueueError
from pgqueue.instants import instant, microseconds

if TYPE_CHECKING:
    from pgqueue.journal import TaskLog


class TransactionBlock(Protocol):
    """What `context.transaction()` gives: a context manager, async in an async task and plain in a sync one."""

    def __enter__(self) -> Any: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...
    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


class Services(Protocol):
    """What the engine does for an attempt."""

    @property
    def runner_id(self) -> uuid.UUID: ...
    @property
    def resources(self) -> Mapping[str, Any]: ...
    def transaction(self, context: Context, connection: Any) -> TransactionBlock: ...
    def queue_of(self, context: Context) -> Any: ...
    def open_log(self, claimed: Claimed) -> TaskLog: ...


class Holding(Protocol):
    """The transaction that holds a locked row, as an attempt sees it."""

    def start(self) -> None: ...
    def finish(self, settlement: Any) -> None: ...
    async def lease(self, claimed: Claimed) -> bool: ...


class Claimed:
    """A claimed row, as the lane reads it. `payload`, `options` and `headers` are JSON text, decoded inside the attempt.

    maturity, claimed: instants as in instants.py, with `maturity_at` and `claimed_at` the datetimes; either is taken.
    holding: the lane's transaction whose lock is the claim; None once it is written down as a lease.
    """

    __slots__ = (
        "attempt", "claim_id", "claimed", "headers", "holding", "id", "is_expired", "maturity", "options", "payload", "priority",
        "queue", "type",
    )  # fmt: skip

    def __init__(
        self,
        queue: str,
        claim_id: str,
        id: str,
        type: str,
        attempt: int,
        priority: int,
        maturity: datetime | int,
        claimed: datetime | int,
        payload: str,
        options: str | None,
        is_expired: bool | None,
        headers: str | None = None,
    ) -> None:
        self.queue = queue
        self.claim_id = claim_id
        self.id = id
        self.type = type
        self.attempt = attempt
        self.priority = priority
        self.maturity = maturity if maturity.__class__ is int else microseconds(maturity)  # type: ignore[arg-type]
        self.claimed = claimed if claimed.__class__ is int else microseconds(claimed)  # type: ignore[arg-type]
        self.payload = payload
        self.options = options
        self.is_expired = is_expired
        self.headers = headers
        self.holding: Holding | None = None

    @property
    def maturity_at(self) -> datetime:
        return instant(self.maturity)

    @property
    def claimed_at(self) -> datetime:
        return instant(self.claimed)


class Context:
    """The running attempt of one task. Made by the runner; kept cheap, since every task gets one."""

    __slots__ = ("_cancelled", "_claimed", "_log", "_result", "_services", "_told", "connection", "error", "loop", "settled")

    _log: TaskLog
    """Made when first asked for, and not set before: most tasks log nothing."""

    def __init__(self, claimed: Claimed, services: Services) -> None:
        self._claimed = claimed
        self._services = services
        self._cancelled: threading.Event | None = None
        self._result: Any = None
        self._told = False
        self.error: BaseException | None = None
        """What the attempt raised; set when `next_try` is asked and hooks are called, None before."""
        self.connection: Any = None
        """The connection of the open `transaction()` block, None outside."""
        self.loop: Any = None
        """The runner's event loop, for what a thread has to ask it; set for attempts that run in one. For the engine."""
        self.settled = False
        """True once a `transaction()` block has committed the task's completion."""

    @property
    def task_id(self) -> uuid.UUID:
        return uuid.UUID(self._claimed.id)

    @property
    def claim_id(self) -> uuid.UUID:
        """The fence: fresh for every claim. Good as an idempotency key towards systems that must see an attempt once."""
        return uuid.UUID(self._claimed.claim_id)

    @property
    def attempt(self) -> int:
        """This attempt's number, 1 for the first."""
        return self._claimed.attempt

    @property
    def type(self) -> str:
        return self._claimed.type

    @property
    def queue_name(self) -> str:
        return self._claimed.queue

    @property
    def headers(self) -> dict[str, Any]:
        """What the enqueue attached beside the payload: trace context, or the schedule and slot that a recurring task is for."""
        return {} if self._claimed.headers is None else dict(json.loads(self._claimed.headers))

    @property
    def scheduled_at(self) -> datetime:
        """The instant from which the task might run, by the database's clock."""
        return self._claimed.maturity_at

    @property
    def started_at(self) -> datetime:
        """The instant of the claim, by the database's clock."""
        return self._claimed.claimed_at

    @property
    def runner_id(self) -> uuid.UUID:
        return self._services.runner_id

    @property
    def resources(self) -> Mapping[str, Any]:
        """What `on_runner_start` put there: a client, a model, a pool; one per process."""
        return self._services.resources

    @property
    def queue(self) -> Any:
        """A client of the kind the task is (`AsyncQueue` in an async one); inside `transaction()` it joins that transaction."""
        return self._services.queue_of(self)

    @property
    def cancelled(self) -> bool:
        """True once somebody asked to cancel this task, its time ran out, or the runner is being stopped for good.

        An async task is also interrupted; a sync one should look here between its steps and return.
        """
        if self._cancelled is None or not self._cancelled.is_set():
            return False
        self._told = True
        return True

    @property
    def was_told(self) -> bool:
        """Whether `cancelled` has been read as True: a sync task that returns after that counts as cancelled. For the engine."""
        return self._told

    @property
    def log(self) -> TaskLog:
        """The task's own log: `log.info("%s rows", count)`. Its lines are stored with the task; it never waits."""
        try:
            return self._log
        except AttributeError:
            self._log = log = self._services.open_log(self._claimed)
            return log

    def progress(self, fraction: float, message: object = "", *arguments: object) -> None:
        """Say how far the task has come, from 0 to 1, and what it is at. It never waits; the latest report counts.

        Raises ValueError for what is no fraction.
        """
        self.log.report(fraction, message, arguments)

    def transaction(self, connection: Any = None) -> TransactionBlock:
        """A transaction in which the task's own writes and its completion commit together, or not at all.

        `async with self.context.transaction() as connection:` in an async task, `with` in a sync one. Without `connection`
        the runner lends a psycopg connection of its own; given one (idle, not in a transaction), that one is used and committed.
        If the lease was lost meanwhile, the block raises LeaseLost and everything in it is rolled back. What `run` does
        afterwards changes nothing.
        """
        return self._services.transaction(self, connection)

    def complete(self, result: Any = None) -> None:
        """Inside `transaction()`: the result to store with the completion; without this call it is null."""
        if self.connection is None:
            raise PgQueueError(
                "context.complete() belongs inside `with context.transaction():`; elsewhere, return the result from run()"
            )
        self._result = result

    def cancellation(self) -> threading.Event:
        """The flag behind `cancelled`, made when first asked for. For the engine."""
        if self._cancelled is None:
            self._cancelled = threading.Event()
        return self._cancelled

    @property
    def completion(self) -> Any:
        """What `complete` was given. For the engine."""
        return self._result
