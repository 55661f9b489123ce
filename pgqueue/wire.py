"""`Exchange`: several statements in one round trip, all queued before anything is read.

psycopg's pipeline mode looks at the socket after every statement and lets the event loop turn in between; while the loop is busy
running tasks, each turn costs a lane milliseconds. Here libpq gets all statements first (psycopg.pq, its public wrapper), and the
loop is waited for only while the server works.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.types.numeric import Int8BinaryLoader
from psycopg.waiting import Ready, Wait

from pgqueue.copying import array_literal
from pgqueue.database import AsyncConnection

_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%")
_GOOD = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)
_prepared: WeakKeyDictionary[AsyncConnection, dict[str, bytes]] = WeakKeyDictionary()
"""The statements that each connection has prepared by text, with their names."""
_numbers = itertools.count()
_adapters: WeakKeyDictionary[AsyncConnection, AdaptersMap] = WeakKeyDictionary()


@dataclass(slots=True)
class Reply:
    """What came of one statement; `result` None where it was not carried out, since one before it had failed."""

    text: str
    result: PGresult | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None and self.result.status in _GOOD


@dataclass(slots=True)
class Exchange:
    """Collects statements, then sends them all. Without `prepare`, statements are parsed each time: behind a pooler."""

    connection: AsyncConnection
    prepare: bool = True
    _replies: list[Reply] = field(default_factory=list)
    _expected: list[Reply | None] = field(default_factory=list)
    """The replies that results belong to, in order; None for that of a Parse, which says nothing."""

    def add(self, text: str, parameters: Mapping[str, Any] | None = None) -> Reply:
        """Queue a statement with psycopg's named placeholders; rows come in binary."""
        pgconn = self.connection.pgconn
        if not self._replies:
            pgconn.enter_pipeline_mode()
        sql, names = _positional(text)
        values = [None if parameters is None else encode(parameters.get(name)) for name in names]
        reply = Reply(text)
        self._replies.append(reply)
        if not self.prepare:
            pgconn.send_query_params(sql, values, result_format=Format.BINARY)
        else:
            known = _prepared.setdefault(self.connection, {})
            name = known.get(text)
            if name is None:
                name = known[text] = f"pgqueue_{next(_numbers)}".encode()
                pgconn.send_prepare(name, sql)
                self._expected.append(None)
            pgconn.send_query_prepared(name, values, result_format=Format.BINARY)
        self._expected.append(reply)
        return reply

    async def run(self) -> None:
        """Send everything, and wait for all results. Raises the first error of a statement, or what a lost connection raises.

        The transaction is then as it was left by the statement that failed: what came after it was not carried out.
        """
        pgconn = self.connection.pgconn
        async with self.connection.lock:
            pgconn.pipeline_sync()
            results = await self.connection.wait(_exchanged(pgconn))
            pgconn.exit_pipeline_mode()
        for expected, result in zip(self._expected, results, strict=False):
            if result.status not in _GOOD:
                # What was to be prepared from here on is not; asking once more for all is simpler than to know which.
                _prepared.pop(self.connection, None)
                raise psycopg.errors.error_from_result(result, encoding="utf-8")
            if expected is not None:
                expected.result = result

    def rows(self, reply: Reply) -> Sequence[tuple[Any, ...]]:
        """The rows of a statement that was carried out, with instants as in instants.py."""
        assert reply.result is not None
        transformer = Transformer(_reading(self.connection))
        transformer.set_pgresult(reply.result, format=Format.BINARY)
        return transformer.load_rows(0, reply.result.ntuples, tuple)


class _Reading(NamedTuple):
    """What a Transformer wants to know of a connection, with a loader of our own."""

    connection: AsyncConnection
    adapters: AdaptersMap


def _reading(connection: AsyncConnection) -> _Reading:
    adapters = _adapters.get(connection)
    if adapters is None:
        adapters = _adapters[connection] = AdaptersMap(connection.adapters)
        adapters.register_loader("timestamptz", Int8BinaryLoader)
    return _Reading(connection, adapters)


def encode(value: Any) -> bytes | None:
    """A parameter in PostgreSQL's text format; the statements' casts say what it is."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, datetime):
        return value.isoformat().encode()
    if isinstance(value, list | tuple):
        return array_literal([str(item) for item in value]).encode()
    return str(value).encode()


@lru_cache(maxsize=1_000)
def _positional(text: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement with `$1` for `%(name)s`, and the names in order."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return "%" if match[1] is None else f"${names.setdefault(match[1], len(names) + 1)}"

    sql = _PLACEHOLDER.sub(number, text).encode()
    return sql, tuple(names)


def _exchanged(pgconn: Any) -> Generator[Wait, Ready, list[PGresult]]:
    """Send what is queued, and collect results up to the Sync; reads while it sends, or both sides could wait for each other."""
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            if pgconn.status != ConnStatus.OK:
                raise psycopg.OperationalError("the connection is lost")
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)
