"""`pgqueue up --demo`: example tasks, enqueued now and then, so that a newcomer sees tasks flow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pgqueue.errors import ConfigurationError, PgQueueError
from pgqueue.requests import EnqueueOptions

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, AsyncTaskHandle
    from pgqueue.registry import Registry

PAUSE_SECONDS = (0.4, 2.5)
PEOPLE = ("ann", "bob", "chen", "dora", "emil", "fatima", "goran")
SUBJECTS = ("Welcome", "Your invoice", "Your order is on its way", "One question", "See you tomorrow")
DATASETS = ("orders", "customers", "returns", "visits", "sensors")

Enqueued = tuple["AsyncTaskHandle[Any]", dict[str, Any], EnqueueOptions]


def check(registry: Registry) -> None:
    """Raises ConfigurationError if the example tasks are not there."""
    if any(registry.find(name) is None for name in ("send-email", "process-data")):
        raise ConfigurationError("--demo enqueues the example tasks: add --tasks examples.tasks, from a checkout of pgqueue")


async def feed(queue: AsyncQueue, tell: Callable[[Enqueued], None], *, chance: random.Random) -> None:
    """Enqueue until cancelled; outages are waited out."""
    while True:
        name, values = _task(chance)
        options = _options(chance)
        try:
            tell((await queue.enqueue_by_name(name, values, **options), values, options))
        except PgQueueError:
            await asyncio.sleep(1)
        await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))


def _task(chance: random.Random) -> tuple[str, dict[str, Any]]:
    if chance.random() < 0.65:
        return "send-email", {"to": f"{chance.choice(PEOPLE)}@example.com", "subject": chance.choice(SUBJECTS)}
    return "process-data", {"dataset": chance.choice(DATASETS), "rows": chance.randrange(100, 90_000)}


def _options(chance: random.Random) -> EnqueueOptions:
    """One in six is for later, one in six is urgent."""
    kind = chance.randrange(6)
    if kind == 0:
        return {"delay": timedelta(seconds=chance.randrange(2, 9))}
    return {"priority": 150} if kind == 1 else {}
