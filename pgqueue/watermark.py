"""Watermarks: how far each priority of a queue has been claimed. Pure.

A claim scan walks every dead index entry at the head of the queue, and while any transaction anywhere holds an old snapshot those
cannot be cleaned: throughput would collapse quadratically. So a runner remembers the last key it claimed, per priority, and
scans segments: from the top to the first watermark, then from each watermark to the next known priority. A task of a
priority not seen before lies in one of the segments too, so a higher priority is seen by every claim.

Keys that appear behind their watermark (late commits, a past `at=`, rescued tasks) are found by scans from the head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pgqueue.context import Claimed

FIRST, LAST = -32_767, 32_767
"""The ends of the range of negated priorities."""
NIL = "00000000-0000-0000-0000-000000000000"
PRIORITIES_MAX = 50
"""Watermarks remembered per queue. Tasks of one more priority share the segment of the one above."""


class Segments(NamedTuple):
    """The segments of one claim, as the arrays that claim.sql takes."""

    first_priorities: list[int]
    maturities: list[str]
    ids: list[str]
    last_priorities: list[int]


WHOLE = Segments([FIRST], ["-infinity"], [NIL], [LAST])
"""A scan from the head: everything, dead entries too."""


class Watermarks:
    """The watermarks of one queue, as one runner knows them."""

    def __init__(self) -> None:
        self._keys: dict[int, tuple[Any, str]] = {}
        self._segments = WHOLE

    def segments(self) -> Segments:
        """What the next claim scans."""
        return self._segments

    def advance(self, batch: Iterable[Claimed]) -> None:
        """Move each priority's watermark to the last key of the batch that was claimed in it; never back."""
        changed = False
        for claimed in batch:
            key = (claimed.maturity_at, claimed.id)
            known = self._keys.get(-claimed.priority)
            if known is None or known < key:
                self._keys[-claimed.priority] = key
                changed = True
        if changed:
            self._rebuild()

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
        self._segments = WHOLE

    def _rebuild(self) -> None:
        while len(self._keys) > PRIORITIES_MAX:
            del self._keys[max(self._keys)]
        known = sorted(self._keys)
        segments = Segments([], [], [], [])
        if known[0] > FIRST:
            _append(segments, FIRST, "-infinity", NIL, known[0] - 1)
        for priority, following in zip(known, [*known[1:], LAST + 1], strict=True):
            maturity_at, id = self._keys[priority]
            _append(segments, priority, maturity_at.isoformat(), id, following - 1)
        self._segments = segments


def _append(segments: Segments, first: int, maturity_at: str, id: str, last: int) -> None:
    segments.first_priorities.append(first)
    segments.maturities.append(maturity_at)
    segments.ids.append(id)
    segments.last_priorities.append(last)
