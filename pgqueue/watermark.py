"""Watermarks: how far each priority of a queue has been claimed. Pure.

A claim scan walks every dead index entry at the head of the queue, and while any transaction anywhere holds an old snapshot those
cannot be cleaned: throughput would collapse quadratically. So a runner remembers the last key it claimed, per priority, and
scans segments: from the top to the first watermark, then from each watermark to the next known priority. A task of a
priority not seen before lies in one of the segments too, so a higher priority is seen by every claim.

Keys that appear behind their watermark (late commits, a past `at=`, rescued tasks) are found by scans from the head (scan.py), in
slices between keys that are remembered on the way: so that each walks a bounded number of dead entries.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

from pgqueue.context import Claimed

FIRST, LAST = -32_767, 32_767
"""The ends of the range of negated priorities."""
NIL = "00000000-0000-0000-0000-000000000000"
PRIORITIES_MAX = 50
"""Watermarks remembered per queue. Tasks of one more priority share the segment of the one above."""
STEP_TASKS = 5_000
"""A key is remembered at every so many tasks: a slice of that many dead entries is walked in about 1 ms."""
STEPS_MAX = 256
"""Keys remembered per priority. When there are more, every second one is forgotten, and from then on half as many are added."""

Key = tuple[Any, str]
"""A place within one priority: maturity and id."""


class Segments(NamedTuple):
    """The segments of one claim, as the arrays that claim.sql takes, with the watermarks that they begin at."""

    first_priorities: list[int]
    maturities: list[str]
    ids: list[str]
    last_priorities: list[int]
    starts: dict[int, Key]


WHOLE = Segments([FIRST], ["-infinity"], [NIL], [LAST], {})
"""A scan from the head: everything, dead entries too."""


class Slice(NamedTuple):
    """A stretch of the index behind a watermark, within one (negated) priority: from `lower` up to, without, `upper`."""

    priority: int
    lower_maturity: str
    lower_id: str
    upper_maturity: str
    upper_id: str


class Watermarks:
    """The watermarks of one queue, as one runner knows them; shared by all that claims for it."""

    def __init__(self) -> None:
        self._keys: dict[int, Key] = {}
        self._steps: dict[int, _Steps] = {}
        self._segments = WHOLE
        self.move_count = 0
        """How often a watermark was moved ahead: whoever sees it stand still knows that nothing is being claimed."""

    @property
    def is_whole(self) -> bool:
        """Nothing is remembered: claims start at the head."""
        return not self._keys

    def segments(self) -> Segments:
        """What the next claim scans."""
        return self._segments

    def advance(self, batch: Iterable[Claimed], count: int, claimed_from: Segments) -> None:
        """Move each priority's watermark to the last key of the batch that was claimed in it; never back.

        The batch need hold no more than the last of each priority; `count` is how many were claimed, of all of them. A claim that
        was under way when its watermark went back began beyond what is ready again, so it moves nothing.
        """
        moved = [self._move(-one.priority, (one.maturity_at, one.id), count, claimed_from) for one in batch]
        if any(moved):
            self._rebuild()

    def pass_by(self, priority: int, maturity_at: Any, id: str, count: int, looked_from: Segments) -> bool:
        """So many ready tasks before this key are not for this runner: claims need not walk them again. Whether that is news."""
        moved = self._move(-priority, (maturity_at, id), count, looked_from)
        if moved:
            self._rebuild()
        return moved and -priority in self._keys  # not where it was one too many to be remembered

    def _move(self, priority: int, key: Key, count: int, seen_from: Segments) -> bool:
        """Whether the (negated) priority's watermark has moved; `count` tasks lie between."""
        known, start = self._keys.get(priority), seen_from.starts.get(priority)
        if known is not None and (known >= key or (start is not None and known < start)):
            return False
        self._keys[priority] = key
        self._steps.setdefault(priority, _Steps()).add(key, count)
        self.move_count += 1
        return True

    def retreat(self, priority: int, maturity_at: Any, id: str) -> None:
        """Take a priority's watermark back to this key, which is ready (again)."""
        key = (maturity_at, id)
        known = self._keys.get(-priority)
        if known is not None and key < known:
            self._keys[-priority] = key
            self._rebuild()

    def forget(self) -> None:
        """Scan from the head next time."""
        self._keys.clear()
        self._steps.clear()
        self._segments = WHOLE

    def restart(self) -> None:
        """Scan each priority from its head next time. Unlike after `forget`, a claim that is under way moves nothing."""
        for priority in self._keys:
            self._keys[priority] = (datetime.min.replace(tzinfo=UTC), NIL)
        if self._keys:
            self._rebuild()

    def slices(self) -> list[Slice]:
        """All that lies behind the watermarks, the highest priority first."""
        return [
            slice for priority in sorted(self._keys) for slice in self._steps[priority].slices(priority, self._keys[priority])
        ]

    def edges(self) -> list[Slice]:
        """The last slice of each priority, just behind its watermark, where most late commits appear."""
        return [self._steps[priority].slice_of(priority, key, key) for priority, key in sorted(self._keys.items())]

    def slice_of(self, priority: int, maturity_at: Any, id: str) -> Slice | None:
        """The slice that this key lies in; None where it is not behind its watermark."""
        upper = self._keys.get(-priority)
        if upper is None or (maturity_at, id) >= upper:
            return None
        return self._steps[-priority].slice_of(-priority, (maturity_at, id), upper)

    def _rebuild(self) -> None:
        while len(self._keys) > PRIORITIES_MAX:
            lowest = max(self._keys)
            del self._keys[lowest], self._steps[lowest]
        known = sorted(self._keys)
        segments = Segments([], [], [], [], dict(self._keys))
        if known[0] > FIRST:
            _append(segments, FIRST, "-infinity", NIL, known[0] - 1)
        for priority, following in zip(known, [*known[1:], LAST + 1], strict=True):
            maturity_at, id = self._keys[priority]
            _append(segments, priority, maturity_at.isoformat(), id, following - 1)
        self._segments = segments


class QueueWatermarks(dict[str, Watermarks]):
    """The watermarks of every queue of a runner, made when first asked for."""

    def __missing__(self, queue: str) -> Watermarks:
        self[queue] = Watermarks()
        return self[queue]


class _Steps:
    """Keys of one priority that its watermark has passed, some 5,000 tasks apart, rising. It may go back; they stay."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._distance = STEP_TASKS
        self._count = 0

    def add(self, key: Key, count: int) -> None:
        """The watermark moves to this key, over so many tasks."""
        self._count += count
        if self._count < self._distance or (self._keys and key <= self._keys[-1]):
            return
        self._keys.append(key)
        self._count = 0
        if len(self._keys) > STEPS_MAX:
            del self._keys[::2]
            self._distance *= 2

    def slices(self, priority: int, watermark: Key) -> list[Slice]:
        """From the head to the watermark."""
        bounds = [None, *self._keys[: bisect_left(self._keys, watermark)], watermark]
        return [_slice(priority, lower, upper) for lower, upper in pairwise(bounds)]

    def slice_of(self, priority: int, key: Key, watermark: Key) -> Slice:
        """The one that holds this key; the last, for the watermark itself."""
        at = bisect_left(self._keys, key) if key == watermark else bisect_right(self._keys, key)
        upper = min(self._keys[at], watermark) if at < len(self._keys) else watermark
        return _slice(priority, self._keys[at - 1] if at else None, upper)


def _slice(priority: int, lower: Key | None, upper: Key | None) -> Slice:
    assert upper is not None
    lower_maturity, lower_id = ("-infinity", NIL) if lower is None else (lower[0].isoformat(), lower[1])
    return Slice(priority, lower_maturity, lower_id, upper[0].isoformat(), upper[1])


def _append(segments: Segments, first: int, maturity_at: str, id: str, last: int) -> None:
    segments.first_priorities.append(first)
    segments.maturities.append(maturity_at)
    segments.ids.append(id)
    segments.last_priorities.append(last)
