"""Four tasks to copy and change. Run them with `pgqueue up --tasks examples.tasks`.

A task is a class: its fields are the payload, `run` is the work, and what `run` returns is the result. An `async def run` shares
the event loop with many others; a plain `def run` gets a thread of its own, so it may block.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import timedelta

from pydantic import BaseModel, Field

from pgqueue import Task, task


class Receipt(BaseModel):
    """What SendEmail returns. Any type that pydantic knows can be a result."""

    message_id: str
    to: str


@task
class SendEmail(Task[Receipt]):
    """Send an email. It takes a second, as talking to a mail server does."""

    to: str
    subject: str

    async def run(self) -> Receipt:
        await asyncio.sleep(1)
        return Receipt(message_id=f"<{self.context.task_id}@example.com>", to=self.to)


@task
class ProcessData(Task[int]):
    """Work through a dataset, and say how many rows it had. Two seconds of blocking work, so it runs in a thread."""

    dataset: str
    rows: int = Field(default=1_000, ge=0)

    def run(self) -> int:
        time.sleep(2)
        return self.rows


@task(frequency=timedelta(hours=24), unique=True)
class DailyReport(Task[str]):
    """Write the day's report. Recurring tasks are made without arguments, so their fields have defaults."""

    title: str = "Daily report"

    async def run(self) -> str:
        await asyncio.sleep(0.5)
        return f"{self.title}: all is well"


class Unhealthy(Exception):
    """The service did not answer as it should."""


@task(priority=200, frequency=timedelta(seconds=5), unique=True)
class HealthCheck(Task):
    """Check that the service answers. It runs before tasks of a lower priority, and never twice at a time."""

    url: str = "http://localhost:8000/health"

    async def run(self) -> None:
        await asyncio.sleep(0.05)
        if random.random() < 0.1:
            raise Unhealthy(f"{self.url} answered 503")

    def next_try(self) -> timedelta | None:
        """Three retries, a minute apart; then it is dead."""
        return timedelta(minutes=1) if self.tries < 3 else None
