"""Enqueue tasks in three ways, and wait for what they return. Start a runner beside it, in the same directory:

pgqueue up --tasks examples.tasks
python -m examples.enqueue
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg

from pgqueue import AsyncQueue, Queue

try:
    from examples.tasks import ProcessData, SendEmail
except ImportError:  # copied elsewhere, beside tasks.py
    from tasks import ProcessData, SendEmail  # type: ignore[import-not-found, no-redef]


def enqueue_and_wait(queue: Queue) -> None:
    """The blocking client. `receipt` is a Receipt: type checkers know it, too."""
    handle = queue.enqueue(SendEmail(to="ann@example.com", subject="Welcome"), priority=150)
    receipt = handle.result(timeout=30)
    print(f"sent {receipt.message_id} to {receipt.to}")


async def enqueue_many(dsn: str) -> None:
    """The asyncio client: three tasks at a time, the last one a second later."""
    async with AsyncQueue(dsn) as queue:
        handles = [await queue.enqueue(ProcessData(dataset=name, rows=len(name) * 100)) for name in ("orders", "customers")]
        handles.append(await queue.enqueue(ProcessData(dataset="returns"), delay=timedelta(seconds=1)))
        rows = await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
        print(f"processed {sum(rows):,} rows")


def enqueue_in_a_transaction(queue: Queue) -> None:
    """The email goes out if and only if the order is there: both are written by one transaction."""
    with psycopg.connect(queue.dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS example_order (id serial PRIMARY KEY, customer text NOT NULL)")
        connection.execute("INSERT INTO example_order (customer) VALUES ('bob@example.com')")
        handle = queue.enqueue(SendEmail(to="bob@example.com", subject="Your order"), connection=connection)
        assert handle.status() is None  # not committed, so nobody else sees it
    print(f"ordered, and sent {handle.result(timeout=30).message_id}")


def main() -> None:
    with Queue() as queue:
        enqueue_and_wait(queue)
        asyncio.run(enqueue_many(queue.dsn))
        enqueue_in_a_transaction(queue)


if __name__ == "__main__":
    main()
