"""Tasks as the text that COPY reads. Ground: pure.

Most tasks of one call differ in id and payload only. What they have in common is written once, and a task is a line put together
from three parts: several times faster than adapting eleven values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pgqueue.requests import Request

CHUNK_ROWS = 1_000
"""So many rows are sent at a time: the server inserts them while the next are written."""
COMMON_MAX = 1_000
"""What so many kinds of tasks have in common is remembered; with spacing each is a kind of its own."""
NULL = r"\N"


def chunks(
    requests: Sequence[Request], now: datetime, firsts: dict[str, datetime], *, overridden: Mapping[str, int] | None = None
) -> Iterator[str]:
    """The rows of copy_tasks.sql, in the order of its columns. `now` is the database's clock.

    overridden: the priorities that operators have set, by type. firsts is filled, on the way, with the instant at which the first
    task of each queue is due.
    """
    known: dict[tuple[Any, ...], tuple[str, str]] = {}
    for start in range(0, len(requests), CHUNK_ROWS):
        lines = []
        for request in requests[start : start + CHUNK_ROWS]:
            common = request[1:4] + request[5:]  # all but id and payload
            parts = known.get(common)
            if parts is None:
                if len(known) >= COMMON_MAX:
                    known.clear()
                maturity_at = request.at or now + timedelta(seconds=request.delay_seconds or 0)
                firsts[request.queue] = min(maturity_at, firsts.get(request.queue, maturity_at))
                parts = known[common] = _parts(_with_priority(request, overridden), maturity_at, now)
            lines.append(f"{request.id.int:032x}{parts[0]}{_escaped(request.payload)}{parts[1]}")
        yield "".join(lines)


def array_literal(words: Sequence[str]) -> str:
    """A text[] as PostgreSQL writes it: an array of arrays of different lengths is not a type."""
    quoted = ('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    return "{" + ",".join(quoted) + "}"


def _with_priority(request: Request, overridden: Mapping[str, int] | None) -> Request:
    if not overridden or request.keeps_priority or request.type not in overridden:
        return request
    return request._replace(priority=overridden[request.type])


def _parts(request: Request, maturity_at: datetime, now: datetime) -> tuple[str, str]:
    """What stands between id and payload, and what follows the payload."""
    expires_at = request.expires_at
    if request.expires_seconds is not None:
        expires_at = now + timedelta(seconds=request.expires_seconds)
    status = "ready" if maturity_at <= now else "scheduled"
    before = [request.queue, request.type, status, str(request.priority)]
    after = [
        maturity_at.isoformat(),
        None if expires_at is None else expires_at.isoformat(),
        None if request.tags is None else array_literal(request.tags),
        request.headers,
        request.options,
    ]
    return f"\t{_fields(before)}\t", f"\t{_fields(after)}\n"


def _fields(values: Sequence[str | None]) -> str:
    return "\t".join(NULL if value is None else _escaped(value) for value in values)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
