"""Tasks in processes of their own, whose hooks and middleware are tested: spawn imports this module by its name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pgqueue
from pgqueue import Task, task


class KnownError(Exception):
    """Can be sent from one process to another."""


class SecretiveError(Exception):
    """Cannot be sent: what it holds cannot be."""

    def __init__(self) -> None:
        super().__init__("hidden")
        self.held: Any = lambda: None


class UnreadableError(Exception):
    """Can be sent, and not be made again."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


@task(executor="process")
class InProcess(Task[int]):
    what: str

    def run(self) -> int:
        if self.what == "exit":
            os._exit(3)
        raised: dict[str, Exception] = {
            "bad": KnownError("known"),
            "secretive": SecretiveError(),
            "unreadable": UnreadableError("one", "other"),
        }
        if self.what in raised:
            raise raised[self.what]
        return 21


@task(executor="process")
class CompletesInProcess(Task[Any]):
    def run(self) -> None:
        with self.context.transaction():
            self.context.complete({"rows": 3})


@pgqueue.middleware
def twice(task: Task[Any], call_next: Callable[[], Any]) -> Any:
    result = call_next()
    return result * 2 if isinstance(result, int) else result


@task(executor="process")
class LogsInProcess(Task):
    lines: int

    def run(self) -> None:
        for number in range(self.lines):
            self.context.log.info("line %s", number)
        self.context.progress(0.5, "half")


@task
class DiesInHook(Task):
    """Its first hook takes the process down, after `run` has ended."""

    mark: str

    async def run(self) -> None: ...

    def on_success(self, result: None) -> None:
        with open(self.mark, "a", encoding="utf-8") as file:
            file.write("called\n")
        with open(self.mark, encoding="utf-8") as file:
            if len(file.readlines()) == 1:
                os.kill(os.getpid(), signal.SIGKILL)


@task(timeout=timedelta(milliseconds=200))
class OutstaysTimeout(Task):
    """Holds its loop until its process is killed over it; the next process tells its hooks."""

    mark: str

    async def run(self) -> None:
        time.sleep(60)  # noqa: ASYNC251  # the point

    async def on_dead(self, error: BaseException) -> None:
        with open(self.mark, "a", encoding="utf-8") as file:  # noqa: ASYNC230
            file.write(f"{type(error).__name__}\n")
