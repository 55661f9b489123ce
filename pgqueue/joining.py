"""A caller's transaction, joined for one enqueue. Never commits it, never rolls it back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import pq

from pgqueue.database import Operation, arun, run
from pgqueue.errors import ConfigurationError

RV = TypeVar("RV")


def run_joined(connection: Any, operation: Operation[RV]) -> RV:
    """Drive an operation in the transaction of a blocking connection. Raises ConfigurationError for anything else."""
    with _joined(connection):
        return run(connection, operation)


async def arun_joined(connection: Any, operation: Operation[RV]) -> RV:
    """The same for an async connection."""
    async with _ajoined(connection):
        return await arun(connection, operation)


@contextmanager
def _joined(connection: Any) -> Iterator[None]:
    """One in autocommit, outside of any transaction, gets one for the length of the call."""
    if isinstance(connection, psycopg.AsyncConnection):
        raise ConfigurationError(
            "this is the blocking Queue and the connection is an async one: use AsyncQueue, or a psycopg.Connection"
        )
    if not isinstance(connection, psycopg.Connection):
        raise _refused(connection, "psycopg.Connection")
    if _stands_alone(connection):
        with connection.transaction():
            yield
    else:
        yield


@asynccontextmanager
async def _ajoined(connection: Any) -> AsyncIterator[None]:
    if isinstance(connection, psycopg.Connection):
        raise ConfigurationError(
            "this is AsyncQueue and the connection is a blocking one: use Queue, or a psycopg.AsyncConnection"
        )
    if not isinstance(connection, psycopg.AsyncConnection):
        raise _refused(connection, "psycopg.AsyncConnection")
    if _stands_alone(connection):
        async with connection.transaction():
            yield
    else:
        yield


def _stands_alone(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether every statement would commit by itself, and an enqueue of several in parts."""
    return connection.autocommit and connection.info.transaction_status == pq.TransactionStatus.IDLE


def _refused(connection: object, wanted: str) -> ConfigurationError:
    kind = type(connection)
    return ConfigurationError(f"connection takes a {wanted}, not {kind.__module__}.{kind.__name__}")
