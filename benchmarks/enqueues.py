"""Enqueueing, against what the server can do, and while heartbeats pile up under an old snapshot."""

from __future__ import annotations

import importlib
import importlib.util
import time
import uuid
from typing import Any

import psycopg

from benchmarks import server
from benchmarks.ground import Ground, Skipped
from benchmarks.tasks import Noop
from pgqueue import Queue
from pgqueue.database import run, single
from pgqueue.statements import statements

RATIOS = "benchmarks.enqueueing"
WARMING_COUNT = 200


def one_by_one(ground: Ground) -> dict[str, float]:
    """One by one, against pgbench with the same insert on one connection."""
    with ground.empty() as dsn:
        return {"ratio": float(_ratios().one_by_one_ratio(dsn)["ratio"])}


def copied(ground: Ground) -> dict[str, float]:
    """In bulk and without keys, against psql's COPY into the same table."""
    with ground.empty() as dsn:
        return {"ratio": float(_ratios().copy_ratio(dsn)["ratio"])}


def beaten(ground: Ground) -> dict[str, float]:
    """One by one after a day of one runner's heartbeats that no vacuum could clean, and before."""
    count = ground.sizes.tasks // 40
    with ground.empty() as dsn, Queue(dsn) as queue:
        _enqueue(queue, WARMING_COUNT)
        before = _enqueue(queue, count)
        with server.old_snapshot(dsn):
            _beat(dsn, ground.sizes.beats)
            after = _enqueue(queue, count)
    return {"before": before, "after": after}


def _ratios() -> Any:
    if importlib.util.find_spec(RATIOS) is None:
        raise Skipped(f"there is no module {RATIOS}")
    return importlib.import_module(RATIOS)


def _enqueue(queue: Queue, count: int) -> float:
    """Tasks a second."""
    began_at = time.perf_counter()
    for number in range(count):
        queue.enqueue(Noop(number=number))
    return count / (time.perf_counter() - began_at)


def _beat(dsn: str, count: int) -> None:
    """So many heartbeats of one runner. They need not reach the disk for what they leave in the table."""
    beat = statements("pgqueue").beat(
        id=uuid.uuid4(), name="bench", kind="runner", host="bench", pid=1, version="0", concurrency=10, running_count=0
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for _ in range(count):
            run(connection, single(beat))
