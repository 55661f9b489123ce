"""One runner process that drains a database and says how long it took: `python -m benchmarks.drain DSN COUNT`."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import benchmarks.tasks  # noqa: F401  # registers them
from pgqueue import AsyncQueue, Runner
from pgqueue.loops import drive


async def main(dsn: str, count: int) -> None:
    async with AsyncQueue(dsn) as queue:
        runner = Runner(queue, drain=True)
        await runner.start()
        started_at, cpu_at = time.perf_counter(), time.process_time()
        async with asyncio.timeout(570):
            await runner.wait()
        seconds, cpu = time.perf_counter() - started_at, time.process_time() - cpu_at
        await runner.stop()
    processed = runner.stats().processed
    if processed != count:
        raise SystemExit(f"{processed} of {count} tasks were processed")
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}))


if __name__ == "__main__":
    drive(main(sys.argv[1], int(sys.argv[2])))
