"""Tasks in processes of their own, whose hooks and middleware are tested: spawn imports this module by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
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
