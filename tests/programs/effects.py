"""Tasks of the runner processes that tests start and kill. What a task has done is a row in the table `effect`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgqueue import Task, task

TABLE = "CREATE TABLE IF NOT EXISTS effect (task_id uuid NOT NULL, pid integer NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())"
INSERT = "INSERT INTO effect (task_id, pid) VALUES (%s, %s)"


@task
class Effect(Task):
    """Take a while, then write one row together with the completion."""

    seconds: float = 0.0
    number: int = 0

    async def run(self) -> None:
        await asyncio.sleep(self.seconds)
        async with self.context.transaction() as connection:
            await connection.execute(INSERT, (self.context.task_id, os.getpid()))


@task
class Plain(Task[int]):
    """Nothing but a result."""

    number: int = 0
    seconds: float = 0.0

    async def run(self) -> int:
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return self.number


@task
class Mark(Task):
    """Say in the database that it runs, then wait."""

    seconds: float = 60.0

    async def run(self) -> None:
        await _mark(self)
        await asyncio.sleep(self.seconds)


@task
class Stubborn(Task):
    """Swallow every interruption."""

    async def run(self) -> None:
        await _mark(self)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass


@task
class Blocking(Task):
    """Hold a thread, deaf to everything."""

    def run(self) -> None:
        with self.context.queue._connection() as connection:
            connection.execute(INSERT, (self.context.task_id, os.getpid()))
        time.sleep(60)


@task
class BlockingElsewhere(Task):
    """Hold a thread that the runner knows nothing of, in the loop's pool or in one of one's own."""

    own: bool = False

    async def run(self) -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="own") if self.own else None
        held = asyncio.get_running_loop().run_in_executor(pool, time.sleep, 60)
        await _mark(self)
        await held


@task
class ExitInBackground(Task[str]):
    """What a background task of user code raises breaks out of asyncio's loop."""

    async def run(self) -> str:
        async def leave() -> None:
            raise SystemExit(9)

        background = asyncio.create_task(leave())
        await asyncio.wait([background])
        return "survived"


@task
class KillRunner(Task):
    """Take the whole process down."""

    async def run(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def _mark(self: Task[Any]) -> None:
    async with self.context.queue._connection() as connection:
        await connection.execute(INSERT, (self.context.task_id, os.getpid()))
