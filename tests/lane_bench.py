"""What test_lane_model.py works with: simulated runners that hold things, and connections driven by hand, one statement at a time."""

from __future__ import annotations

import asyncio
import select
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg

from pgqueue.completer import Settlement
from pgqueue.context import Claimed
from pgqueue.database import Parameters
from pgqueue.lane import Closing, Opened
from pgqueue.outcomes import Outcome
from pgqueue.statements import Call, Statements
from pgqueue.wire import _positional, encode

QUEUE = "default"
TABLE = "CREATE TABLE IF NOT EXISTS effect (task_id uuid NOT NULL, claim_id uuid NOT NULL)"


class Violation(AssertionError):
    """Something that must never be was seen."""


def demand(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


@dataclass(eq=False)
class Run:
    """An attempt that was begun, as the runner that runs it knows it."""

    claimed: Claimed
    outcome: Outcome | None = None
    keep: bool = True

    @property
    def id(self) -> str:
        return self.claimed.id

    @property
    def claim(self) -> str:
        return self.claimed.claim_id

    @property
    def settlement(self) -> Settlement:
        assert self.outcome is not None
        return Settlement(self.claimed, self.outcome, self.keep)


@dataclass(eq=False)
class Held:
    """A lane's transaction: what it has locked, and what it has leased with the pick."""

    connection: psycopg.Connection[Any] | None
    opened: Opened
    locked: list[Run]
    leased: list[Run]
    leases_before: dict[str, int]
    closing: Closing = field(default_factory=Closing)

    @property
    def runs(self) -> list[Run]:
        return self.locked + self.leased


@dataclass(eq=False)
class Block:
    """A `context.transaction()` that has settled and not committed."""

    connection: psycopg.Connection[Any]
    run: Run


@dataclass(eq=False)
class Runner:
    """One process: what it believes to have in hand."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    lanes: list[Held] = field(default_factory=list)
    lost: list[Held] = field(default_factory=list)
    """Lanes whose connection is gone, to be regained."""
    runs: list[Run] = field(default_factory=list)
    """Attempts under a lease, or under what is believed to be one."""
    blocks: list[Block] = field(default_factory=list)

    def claims(self) -> set[str]:
        """As engine.py says them to strays.sql."""
        lanes = {held.opened.claim_id for held in self.lanes + self.lost}
        return lanes | {run.claim for run in self.runs} | {block.run.claim for block in self.blocks}

    def in_hand(self) -> set[str]:
        """The tasks that it knows of and will do something about."""
        held = [run for held in self.lanes + self.lost for run in held.runs]
        return {run.id for run in [*held, *self.runs, *(block.run for block in self.blocks)]}


class Owner(NamedTuple):
    """Who owns a row by right: by an open transaction's lock, or by a lease that has been committed."""

    claim: str
    runner: str
    is_leased: bool


class Bench:
    """Statements and connections for worlds to use, kept from one to the next."""

    def __init__(self, dsn: str, sql: Statements) -> None:
        self.dsn = dsn
        self.sql = sql
        self.admin = psycopg.connect(dsn, autocommit=True)
        self.admin.execute(TABLE)
        self.admin.execute("SET lock_timeout = '50ms'")
        self.loop = asyncio.new_event_loop()
        self._idle: list[psycopg.Connection[Any]] = []
        self._lent: set[psycopg.Connection[Any]] = set()

    def lend(self, name: str = "model") -> psycopg.Connection[Any]:
        connection = self._idle.pop() if self._idle else psycopg.connect(self.dsn, autocommit=True)
        _name(connection, name)
        self._lent.add(connection)
        return connection

    def give_back(self, connection: psycopg.Connection[Any]) -> None:
        _name(connection, "idle")
        self._lent.discard(connection)
        self._idle.append(connection)

    def kill(self, connection: psycopg.Connection[Any]) -> None:
        """As if its peer were gone; what it had locked is free when this returns."""
        self._lent.discard(connection)
        self.admin.execute("SELECT pg_terminate_backend(%s, 10000)", (connection.info.backend_pid,))
        connection.close()

    def clean(self) -> None:
        for connection in list(self._lent):
            self.kill(connection)
        for table in ("task", "dead_task", "history", "attempt", "runner"):
            self.admin.execute(f"DELETE FROM pgqueue.{table}")
        self.admin.execute("DELETE FROM effect")

    def close(self) -> None:
        self.clean()
        for connection in (*self._idle, self.admin):
            connection.close()
        self.loop.close()


def _name(connection: psycopg.Connection[Any], name: str) -> None:
    """As links are named: end_backends.sql finds them by it. Only a cancel may wait for a row."""
    limit = "0" if name == "cancel" else "50ms"
    connection.execute(
        "SELECT set_config('application_name', %s, false), set_config('lock_timeout', %s, false)", (f"pgqueue {name}", limit)
    )


class Recorder:
    """Stands for an Exchange: the statements of a lane's turn, to be sent one by one."""

    connection = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def add(self, text: str, parameters: Any = None) -> None:
        self.calls.append((text, Parameters(parameters or {})))


class BenchLink:
    """Stands for a Link, over a connection in autocommit."""

    def __init__(self, rows: Callable[[Call], list[Any]]) -> None:
        self._rows = rows

    async def wait_until_up(self) -> bool:
        return True

    async def rows(self, call: Call) -> list[Any]:
        return self._rows(call)


class Waiter:
    """A cancel that may have to wait for a row: sent, and looked after until it is answered."""

    def __init__(self, bench: Bench, task_id: str) -> None:
        self.task_id = task_id
        self.connection = bench.lend("cancel")
        sql, names = _positional(bench.sql.cancel.text)
        given = {"queue": QUEUE, "id": task_id, "reason": "asked"}
        self.connection.pgconn.send_query_params(sql, [encode(given[name]) for name in names])

    def answer(self, admin: psycopg.Connection[Any]) -> list[str] | None:
        """The status it gave, if it found the task; None while it waits for somebody."""
        pgconn = self.connection.pgconn
        while pgconn.is_busy():
            if select.select([pgconn.socket], [], [], 0.002)[0]:
                pgconn.consume_input()
                continue
            row = admin.execute("SELECT pg_blocking_pids(%s) <> '{}'", (pgconn.backend_pid,)).fetchone()
            if row == (True,):
                return None
        found: list[str] = []
        while (result := pgconn.get_result()) is not None:
            demand(not result.error_message, f"cancel failed: {result.error_message.decode()}")
            found += [(result.get_value(number, 0) or b"").decode() for number in range(result.ntuples)]
        return found
