"""How fast tasks are enqueued, beside PostgreSQL's own tools doing the same insert into the same table in the same run.

One by one: pgbench with enqueue.sql, prepared, on one connection. In bulk: psql's COPY of the same rows, indexes included.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.tasks import Noop
from pgqueue import Queue
from pgqueue.embedded import binary
from pgqueue.statements import statements

ROUNDS = 5
SINGLES = 1_000
"""Tasks a round."""
BULK = 100_000
GIVEN = {
    "id": "uuidv7()",
    "queue": "'default'",
    "type": "'noop'",
    "priority": "100",
    "payload": """'{"number":1}'""",
    "channel": "'pgqueue'",
}
"""What pgbench inserts; uuidv7() is PostgreSQL's from 18 on. The rest is NULL, as in a plain enqueue."""
COLUMNS = "id, queue, type, status, priority, payload, maturity_at, expires_at, tags, headers, options"


def one_by_one_ratio(dsn: str, *, rounds: int = ROUNDS, count: int = SINGLES) -> dict[str, Any]:
    """`queue.enqueue(task)` on one connection to pgbench's rate, the median of interleaved rounds. The database is emptied."""
    pairs = []
    with Queue(dsn, pool_size=1) as queue:
        queue.enqueue(Noop())
        for _ in range(rounds):
            _empty(dsn)
            yardstick = _pgbench_rate(dsn, count)
            started_at = time.perf_counter()
            for number in range(count):
                queue.enqueue(Noop(number=number))
            pairs.append((count / (time.perf_counter() - started_at), yardstick))
    return _report(pairs)


def copy_ratio(dsn: str, *, rounds: int = 3, count: int = BULK) -> dict[str, Any]:
    """`queue.enqueue_many` of tasks without keys to psql's COPY, the median of interleaved rounds. The database is emptied."""
    pairs = []
    tasks = [Noop(number=number) for number in range(count)]
    with Queue(dsn, pool_size=1) as queue, tempfile.TemporaryDirectory() as directory:
        for _ in range(rounds):
            _empty(dsn)
            started_at = time.perf_counter()
            queue.enqueue_many(tasks)
            rate = count / (time.perf_counter() - started_at)
            path = Path(directory) / "tasks.copy"
            _psql(dsn, f"\\copy pgqueue.task ({COLUMNS}) TO '{path}'")
            _empty(dsn)
            pairs.append((rate, count / _psql(dsn, f"\\copy pgqueue.task ({COLUMNS}) FROM '{path}'")))
    return _report(pairs)


def _report(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ours, theirs = (round(statistics.median(rates)) for rates in zip(*pairs, strict=True))
    ratio = statistics.median(rate / yardstick for rate, yardstick in pairs)
    return {"rate": ours, "yardstick": theirs, "ratio": round(ratio, 3)}


def _empty(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE pgqueue.task")
        connection.execute("CHECKPOINT")


def _pgbench_rate(dsn: str, count: int) -> float:
    text = re.sub(r"%\((\w+)\)s", lambda found: GIVEN.get(found[1], "NULL"), statements("pgqueue").enqueue.text)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        Path(script.name).write_text(text.replace("%%", "%") + ";\n", "utf-8")
        command = [str(binary("pgbench")), "-n", "-c", "1", "-M", "prepared", "-f", script.name, "-t", str(count), dsn]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench failed: {done.stderr.strip()[-800:]}")
    return float(found[1])


def _psql(dsn: str, command: str) -> float:
    """Run one command. Returns its seconds as psql measures them, without the time to connect."""
    arguments = [str(binary("psql")), "-X", "-v", "ON_ERROR_STOP=1", "-c", "\\timing on", "-c", command, dsn]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    found = re.findall(r"Time: ([\d.]+) ms", done.stdout)
    if done.returncode != 0 or not found:
        raise RuntimeError(f"psql failed: {done.stderr.strip()[-800:]}")
    return float(found[-1]) / 1000
