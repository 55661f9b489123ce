"""Tasks that run in processes of their own, for tests: spawn imports this module by its name."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import timedelta
from typing import Any

from pgqueue import Task, registry, task


@task(executor="process")
class Square(Task[int]):
    number: int

    def run(self) -> int:
        return self.number**2


@task(executor="process")
class SquareLater(Task[int]):
    number: int

    async def run(self) -> int:
        await asyncio.sleep(0)
        return self.number**2


@task(executor="process")
class Large(Task[str]):
    text: str

    def run(self) -> str:
        return self.text.upper()


@task(executor="process")
class FailTwice(Task):
    def run(self) -> None:
        if self.tries < 2:
            raise LookupError(f"attempt {self.context.attempt}")

    def next_try(self) -> timedelta | None:
        return timedelta(milliseconds=1) if isinstance(self.context.error, LookupError) else None


@task(executor="process")
class Unstorable(Task):
    def run(self) -> Any:
        return object()


@task(executor="process")
class KillItself(Task):
    number: int = signal.SIGKILL

    def run(self) -> None:
        os.kill(os.getpid(), self.number)


@task(executor="process")
class Exit(Task):
    def run(self) -> None:
        os._exit(7)


@task(executor="process")
class Raise(Task):
    """SystemExit of user code must not end the process that others will use."""

    def run(self) -> None:
        raise SystemExit(3)


@task(executor="process")
class Hold(Task):
    """Write one's pid into a file, and never end."""

    path: str

    def run(self) -> None:
        with open(self.path + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.replace(self.path + ".new", self.path)
        while True:
            time.sleep(60)


@task(executor="process")
class Describe(Task[dict[str, Any]]):
    def run(self) -> dict[str, Any]:
        context = self.context
        Square(number=3).enqueue()
        return {
            "task_id": str(context.task_id), "attempt": context.attempt, "queue": context.queue_name, "type": context.type,
            "runner_id": str(context.runner_id), "pid": os.getpid(), "cancelled": context.cancelled,
        }  # fmt: skip


@task(executor="process")
class Transact(Task[str]):
    fails: bool = False

    def run(self) -> str:
        with self.context.transaction() as connection:
            connection.execute("INSERT INTO effect (task_id) VALUES (%s)", (self.context.task_id,))
            if self.fails:
                raise ValueError("rolled back")
            self.context.complete("from the block")
        return "from run"


def register() -> None:
    """Make these types known to this process's registry."""
    for cls in (Square, SquareLater, Large, FailTwice, Unstorable, KillItself, Exit, Raise, Hold, Describe, Transact):
        assert cls.__task_type__ is not None
        registry.add(cls.__task_type__)
