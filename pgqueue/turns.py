"""Whose turn it is: several queues share a runner's slots in turn, by weight. Pure: `now` is an argument, in seconds.

An empty queue sleeps by growing pauses, from 10 ms up to the poll interval, so that it costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

PAUSE_MIN_SECONDS = 0.01
PAUSE_GROWTH = 1.6
DROWSY_SECONDS = 0.02
"""A queue whose pause has grown so far, at the third empty look, is asleep: notice is worth asking for."""


class Turns:
    """The queues of one runner. `weights` None: all queues, as they are discovered, each with weight 1."""

    def __init__(self, weights: Mapping[str, int] | None, *, pause_max_seconds: float) -> None:
        self.discovers = weights is None
        self._weights = dict(weights or {})
        self._pause_max = pause_max_seconds
        self._pause: dict[str, float] = {}
        self._due_at: dict[str, float] = {}
        self._credit: dict[str, float] = {}
        self._again: set[str] = set()
        """Queues to look at once more whatever the claim that is under way finds: it may have looked too early."""

    @property
    def queues(self) -> list[str]:
        """The queues known by now."""
        return list(self._weights)

    def discover(self, queues: Iterable[str]) -> None:
        """Queues that hold tasks; without effect where the queues were named."""
        if self.discovers:
            for queue in queues:
                self._weights.setdefault(queue, 1)

    def shares(self, limit: int, now: float) -> list[tuple[str, int]]:
        """The queues to claim from now and how many each: by weight over time, also where slots become free one by one.

        What a queue is short of its part, or had beyond it, is remembered. The one that is owed most comes first.
        """
        due = [queue for queue in self._weights if self._due_at.get(queue, 0.0) <= now]
        total = sum(self._weights[queue] for queue in due)
        owed = {queue: self._credit.get(queue, 0.0) + limit * self._weights[queue] / total for queue in due}
        due.sort(key=lambda queue: -owed[queue])
        shares, left = dict.fromkeys(due, 0), limit
        for queue in due:
            shares[queue] = min(left, max(0, int(owed[queue])))
            left -= shares[queue]
        for queue in sorted(due, key=lambda queue: shares[queue] - owed[queue])[:left]:
            shares[queue] += 1
        self._credit.update((queue, owed[queue] - shares[queue]) for queue in due)
        self._again.difference_update(queue for queue, share in shares.items() if share)
        return [(queue, share) for queue, share in shares.items() if share]

    def found(self, queue: str, count: int, now: float) -> None:
        """A claim of this queue found so many; nothing lets it sleep, longer each time."""
        if count:
            self._pause.pop(queue, None)
            self._due_at.pop(queue, None)
            return
        self._credit.pop(queue, None)
        pause = min(self._pause_max, self._pause.get(queue, PAUSE_MIN_SECONDS / PAUSE_GROWTH) * PAUSE_GROWTH)
        self._pause[queue] = pause
        if queue not in self._again:
            self._due_at[queue] = now + pause

    def is_resting(self, queue: str) -> bool:
        """Whether the last claim of it found nothing."""
        return queue in self._pause

    def wake(self, queue: str | None = None) -> None:
        """There is something in this queue, or perhaps in all of them."""
        for name in [queue] if queue is not None else self.queues:
            self._pause.pop(name, None)
            self._due_at.pop(name, None)
            self._again.add(name)

    def hasten(self) -> None:
        """Look at every queue once more; who finds nothing there sleeps on."""
        self._due_at.clear()
        self._again.update(self._weights)

    @property
    def is_drowsy(self) -> bool:
        """Whether all queues have been found empty for a while, or none is known."""
        drowsy = min(DROWSY_SECONDS, self._pause_max)
        return all(self._pause.get(queue, 0.0) >= drowsy for queue in self._weights)

    def pause(self, now: float) -> float:
        """Seconds until the next queue is due; the longest pause where no queue is known."""
        if not self._weights:
            return self._pause_max
        return max(0.0, min(self._due_at.get(queue, 0.0) for queue in self._weights) - now)
