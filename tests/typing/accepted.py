"""What a user may write: every line passes mypy --strict and pyright, without a plugin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypedDict, assert_type
from uuid import UUID

import psycopg
from pydantic import BaseModel, Field

from pgqueue import (
    AsyncQueue,
    AsyncTaskHandle,
    Context,
    Queue,
    Retry,
    Schedule,
    Status,
    Task,
    TaskHandle,
    TaskPage,
    TaskRecord,
    Unique,
    on_runner_start,
    task,
)


class Receipt(BaseModel):
    number: int


@dataclass
class Point:
    x: int


class Bill(TypedDict):
    total: int


@task
class Bare(Task):
    """A task that promises no result."""

    async def run(self) -> None: ...


@task(priority=200, frequency=timedelta(seconds=5), unique=True)
class HealthCheck(Task):
    url: str = "http://localhost:8000/health"

    async def run(self) -> None: ...

    def next_try(self) -> timedelta | None:
        return timedelta(minutes=1) if self.tries < 3 else None


@task(
    name="send-email",
    queue="mail",
    retry=Retry(max_attempts=5, backoff="exponential", on=(OSError,)),
    timeout=timedelta(seconds=30),
    unique=Unique(by=("to",)),
    idempotency_key=lambda task: str(task.to),
    tags=["billing"],
)
class SendEmail(Task[Receipt]):
    to: str
    subject: str = Field(default="", max_length=200)
    copy_: str = Field(default="", alias="copy")

    async def run(self) -> Receipt:
        assert_type(self.context, Context)
        assert_type(self.tries, int)
        return Receipt(number=len(self.to))


@task(executor="process", cron="0 3 * * *", timezone="Europe/Berlin", missed="skip")
class Blocking(Task[list[int]]):
    def run(self) -> list[int]:
        return [1]


class Base(Task[int | None]):
    """What several tasks share."""

    user_id: int = 0


@task
class Derived(Base):
    async def run(self) -> int | None:
        return self.user_id


@task
class Pointing(Task[Point]):
    def run(self) -> Point:
        return Point(1)


@task
class Billing(Task[Bill]):
    async def run(self) -> Bill:
        return {"total": 1}


@task(batch_size=50)
class Translate(Task[str]):
    text: str

    @classmethod
    async def run_many(cls, tasks: Sequence[Self]) -> Sequence[str | BaseException]:
        assert_type(tasks[0].context, Context)
        return [one.text or ValueError("nothing to translate") for one in tasks]


@task(batch_size=10)
class Index(Task):
    """One that names itself, returns nothing and runs in a thread."""

    @classmethod
    def run_many(cls, documents: Sequence[Index]) -> None: ...


@on_runner_start
async def start(resources: dict[str, Any]) -> None:
    resources["client"] = object()


def blocking(queue: Queue, connection: psycopg.Connection[Any]) -> None:
    assert_type(queue.enqueue(SendEmail(to="a", subject="b", copy="c")), TaskHandle[Receipt])
    assert_type(queue.enqueue(SendEmail(to="a")).result(timeout=5), Receipt)
    assert_type(queue.enqueue(Blocking()).result(timedelta(seconds=5)), list[int])
    assert_type(queue.enqueue(Derived(user_id=5)).result(), int | None)
    assert_type(queue.enqueue(Pointing()).result(), Point)
    assert_type(queue.enqueue(Billing()).result(), Bill)
    assert_type(queue.enqueue(Translate(text="a")).result(), str)
    assert_type(queue.run_now(Translate(text="a")), str)
    handle = queue.enqueue(
        HealthCheck(url="x"),
        delay=timedelta(minutes=5),
        expires=datetime(2030, 1, 1, tzinfo=UTC),
        priority=5,
        queue="other",
        timeout=timedelta(seconds=1),
        retry=Retry(max_attempts=2),
        unique=False,
        idempotency_key="k",
        tags=("a",),
        headers={"traceparent": "x"},
        connection=connection,
    )
    assert_type(handle.id, UUID)
    assert_type(handle.created, bool)
    assert_type(handle.status(), Status | None)
    assert_type(handle.cancel(), bool)
    assert_type(queue.enqueue_many([SendEmail(to=str(n)) for n in range(3)], spacing=timedelta(1)), list[TaskHandle[Receipt]])
    assert_type(queue.enqueue_by_name("send-email", {"to": "x"}, priority=3), TaskHandle[Any])
    assert_type(queue.run_now(SendEmail(to="a")), Receipt)
    assert_type(queue.get(handle), TaskRecord | None)
    assert_type(queue.list(status=["ready", Status.DEAD], limit=5), TaskPage)
    assert_type(queue.counts(), dict[str, dict[Status, int]])
    assert_type(queue.cancel_all(type="send-email"), int)
    for record in queue.list():
        assert_type(record, TaskRecord)
    with Queue() as own:
        assert_type(own, Queue)
    schedule = queue.schedules.create("one", SendEmail(to="a"), cron="0 3 * * *", timezone="Europe/Berlin", max_runs=3)
    assert_type(schedule, Schedule)
    queue.schedules.create("two", SendEmail, {"to": "a"}, rrule="FREQ=DAILY", missed="skip", unique=True, tags=["a"])
    assert_type(queue.schedules.update("two", frequency=timedelta(hours=1), end_at=None), Schedule)
    assert_type(queue.schedules.get("two"), Schedule | None)
    assert_type(queue.schedules.trigger("two"), TaskHandle[Any])


async def asynchronous(queue: AsyncQueue, connection: psycopg.AsyncConnection[Any]) -> None:
    handle = await queue.enqueue(SendEmail(to="a"), connection=connection)
    assert_type(handle, AsyncTaskHandle[Receipt])
    assert_type(await handle.result(timeout=5), Receipt)
    assert_type(await queue.run_now(Blocking()), list[int])
    assert_type(await queue.enqueue_many([Blocking()]), list[AsyncTaskHandle[list[int]]])
    assert_type(await handle.status(), Status | None)
    async with AsyncQueue() as own:
        assert_type(own, AsyncQueue)
    await SendEmail(to="a").enqueue(priority=1)
    assert_type(await queue.schedules.pause("one"), Schedule)
    assert_type(await queue.schedules.trigger("one"), AsyncTaskHandle[Any])
