"""What a type checker must refuse: each line marked `# wrong` is an error, and no other is."""

from __future__ import annotations

from typing import Any

import psycopg

from pgqueue import AsyncQueue, Queue, Retry, Task, Unique, task


@task
class SendEmail(Task[int]):
    to: str
    subject: str = ""

    async def run(self) -> int:
        return 1


class Lying(Task[int]):
    async def run(self) -> str:  # wrong
        return ""


class Misjudging(Task[int]):
    def run(self) -> int:
        return 1

    def next_try(self) -> int:  # wrong
        return 1


def options() -> None:
    task(prioirty=1)  # wrong
    task(priority="high")  # wrong
    task(executor="thread")  # wrong
    task(retry=3)  # wrong
    task(unique="yes")  # wrong
    task(missed="never")  # wrong
    Retry(backoff="random")  # wrong
    Unique(by=5)  # wrong
    task(dict)  # wrong


def blocking(queue: Queue, own: psycopg.AsyncConnection[Any]) -> None:
    SendEmail()  # wrong
    SendEmail(to=5)  # wrong
    SendEmail(to="a", colour="red")  # wrong
    queue.enqueue(SendEmail)  # wrong
    queue.enqueue("send-email")  # wrong
    queue.enqueue(SendEmail(to="a"), prioirty=5)  # wrong
    queue.enqueue(SendEmail(to="a"), priority="high")  # wrong
    queue.enqueue(SendEmail(to="a"), delay=5)  # wrong
    queue.enqueue(SendEmail(to="a"), connection=own)  # wrong
    queue.enqueue_many(SendEmail(to="a"))  # wrong
    text: str = queue.enqueue(SendEmail(to="a")).result()  # wrong
    queue.cancel(5)  # wrong
    queue.list(limit="5")  # wrong
    SendEmail(to="a").enqueue(prioirty=5)  # wrong
    assert text


async def asynchronous(queue: AsyncQueue, own: psycopg.Connection[Any]) -> None:
    await queue.enqueue(SendEmail(to="a"), connection=own)  # wrong
    handle = await queue.enqueue(SendEmail(to="a"))
    text: str = await handle.result()  # wrong
    assert text
