"""Aging: in which order the tasks of a queue run. Pure.

Strictly by priority; unless the queue ages, where a task gains one step of priority for each `aging` that it has waited:
`priority + (now − maturity_at) / aging`. Between two tasks `now` cancels out, so their order is fixed from the start: by
`maturity_at − priority × aging`, the smaller first. Nobody has to update a row that waits. claim_aged.sql computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

from pgqueue.context import Claimed
from pgqueue.instants import MICROSECOND
from pgqueue.records import QueueRecord

PRIORITIES_LIMIT = 1_000
"""Priorities that one claim of a queue that ages looks at; of more at a time the lowest wait."""
REACH_MIN, REACH_MAX = 2, 32
"""Candidates looked at for each task wanted. The most: 16 runners that lock, each at a batch of its own, and as much to spare."""

Order: TypeAlias = Callable[[Claimed], tuple[Any, ...]]


def by_priority(claimed: Claimed) -> tuple[Any, ...]:
    """The strict order."""
    return -claimed.priority, claimed.maturity, claimed.id


def by_age(aging: timedelta, claimed: Claimed) -> tuple[Any, ...]:
    """The order of a queue that ages; within one priority it is the strict one."""
    return claimed.maturity - claimed.priority * (aging // MICROSECOND), -claimed.priority, claimed.id


class Agings:
    """What a runner knows of the aging of its queues; shared by all that claims for it."""

    def __init__(self) -> None:
        self._agings: dict[str, timedelta] = {}

    def learn(self, queues: Iterable[QueueRecord]) -> None:
        """These are all queues that have settings."""
        self._agings = {queue.name: queue.aging for queue in queues if queue.aging is not None}

    def of(self, queue: str) -> timedelta | None:
        """None: it is strict."""
        return self._agings.get(queue)

    def order(self, queue: str) -> Order:
        """The key to sort tasks of this queue by."""
        aging = self._agings.get(queue)
        return by_priority if aging is None else partial(by_age, aging)


class Reach:
    """How many candidates to look at for those wanted: the first of them may all be locked by other lanes."""

    def __init__(self) -> None:
        self._factor = REACH_MIN

    def of(self, limit: int) -> int:
        return limit * self._factor

    def found(self, count: int, limit: int) -> None:
        """Fewer than wanted: look farther next time, which costs nothing where there are no more."""
        self._factor = min(REACH_MAX, self._factor * 2) if count < limit else max(REACH_MIN, self._factor // 2)
