"""Work on tables in use: steps that each take their locks for a moment, are tried again, and otherwise put off.

A generator yields steps and is sent what came of them; it does no I/O. `run` and `arun` drive it over a connection in
autocommit (an operation, see database.py, runs in whatever transaction its caller has; these need one for each step).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pgqueue.errors import ConfigurationError
from pgqueue.statements import Call

T = TypeVar("T")

TRIES_MAX = 5
PAUSE_SECONDS = (0.1, 0.6)


@dataclass(frozen=True, slots=True)
class Script:
    """Statements that go to the server as one message: one transaction."""

    text: sql.Composed


@dataclass(frozen=True, slots=True)
class Pause:
    """Let others pass, for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of a call, or how many rows a script wrote."""

    rows: list[tuple[Any, ...]]
    count: int = 0


Step = Call | Script | Pause
Steps = Generator[Step, Result, T]


@dataclass(frozen=True, slots=True)
class Postponed:
    """Why a script was given up: the tables were in use (waiting may help others of its kind as little), or it was refused."""

    reason: str
    in_use: bool


def tried(script: Script, what: str) -> Steps[int | Postponed]:
    """Execute a script, again if a lock was not to be had. How many rows it wrote, or why it has to wait."""
    reason = ""
    for _ in range(TRIES_MAX):
        try:
            return (yield script).count
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected) as error:
            reason = f"{what}: in use by another transaction ({error.diag.message_primary})"
        except (psycopg.ProgrammingError, psycopg.IntegrityError) as error:
            return Postponed(f"{what}: {error.diag.message_primary}", in_use=False)
        yield Pause(random.uniform(*PAUSE_SECONDS))
    return Postponed(reason, in_use=True)


def run(connection: psycopg.Connection[Any], steps: Steps[T]) -> T:
    """Drive steps over a connection in autocommit."""
    _check_autocommit(connection.autocommit)
    try:
        step = next(steps)
        while True:
            try:
                result = _execute(connection, step)
            except psycopg.Error as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome


async def arun(connection: psycopg.AsyncConnection[Any], steps: Steps[T]) -> T:
    """Drive steps over an async connection in autocommit."""
    _check_autocommit(connection.autocommit)
    try:
        step = next(steps)
        while True:
            try:
                result = await _aexecute(connection, step)
            except psycopg.Error as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome


def _execute(connection: psycopg.Connection[Any], step: Step) -> Result:
    if isinstance(step, Pause):
        time.sleep(step.seconds)
        return Result([])
    cursor = connection.cursor(row_factory=tuple_row)
    if isinstance(step, Call):
        return Result(cursor.execute(step.statement.text.encode(), step.parameters).fetchall())
    cursor.execute(step.text, prepare=False)
    return _written(cursor)


async def _aexecute(connection: psycopg.AsyncConnection[Any], step: Step) -> Result:
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
        return Result([])
    cursor = connection.cursor(row_factory=tuple_row)
    if isinstance(step, Call):
        await cursor.execute(step.statement.text.encode(), step.parameters)
        return Result(await cursor.fetchall())
    await cursor.execute(step.text, prepare=False)
    return _written(cursor)


def _written(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> Result:
    """How many rows all the statements of a script wrote."""
    count = max(cursor.rowcount, 0)
    while cursor.nextset():
        count += max(cursor.rowcount, 0)
    return Result([], count)


def _check_autocommit(autocommit: bool) -> None:
    if not autocommit:
        raise ConfigurationError("each step is a transaction of its own: the connection must be in autocommit")
