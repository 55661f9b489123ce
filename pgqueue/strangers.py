"""Strangers: ready tasks of types that this runner does not know, or that are disabled. They must not burden its claims.

Claims pass them by: a look ahead moves the watermarks over them, in bounded steps, so that claims need not walk them again. Those
that no live runner of their queue knows are blocked after a while, in batches, and freed by any runner that knows them; those of
a disabled type are blocked at once, and freed when it is enabled. Used by scan.py on its connection; every statement takes rows
with SKIP LOCKED.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from pgqueue.link import Link
from pgqueue.statements import Statements
from pgqueue.watermark import PRIORITIES_MAX, Slice, Watermarks

logger = logging.getLogger("pgqueue.strangers")
LOOK_LIMIT = 20_000
"""Ready tasks that one look ahead walks at most: 10 ms."""
BLOCK_BATCH = 2_000
"""Tasks blocked or freed in one statement: 20 ms."""
PAUSE_SECONDS = 5.0
"""Between two looks, and between two offers to free what is known here, while nothing is claimed."""
BUSY_PAUSE_SECONDS = 0.5
"""Between two looks ahead while tasks are claimed."""
BLOCK_PAUSE_SECONDS = 15.0
"""Between two walks over what lies behind the watermarks; less where `unknown_type_delay` is short."""
PAUSE_MIN_SECONDS = 0.05
WARNED_MAX = 1_000
"""Types that are remembered as reported."""


class Strangers:
    """Passes by, blocks and frees for one runner. Each method is one statement for one queue, and returns the pause after it."""

    def __init__(
        self,
        sql: Statements,
        link: Link,
        *,
        types: list[str],
        delay: timedelta,
        watermarks: Mapping[str, Watermarks],
        on_ready: Callable[[str], None],
    ) -> None:
        self._sql = sql
        self._link = link
        self._types = types  # no copy: it changes in place (policies.py)
        self._delay_seconds = delay.total_seconds()
        self._watermarks = watermarks
        self._on_ready = on_ready
        self._move_counts: dict[str, int] = {}
        self._stretches: dict[str, list[Slice]] = {}
        self._blocked: dict[str, Counter[str]] = {}
        self._warned: set[tuple[str, str]] = set()

    async def look_ahead(self, queue: str) -> float:
        """Move the watermarks over strangers that claims are about to meet."""
        watermarks = self._watermarks[queue]
        segments = watermarks.segments()
        parameters = {"queue": queue, "types": self._types, "limit": LOOK_LIMIT, "priorities": PRIORITIES_MAX}
        rows = await self._link.rows(self._sql.look_ahead(**parameters, **segments._asdict()))
        has_more = False
        for priority, maturity_at, id, count, is_known in rows:
            key = id if is_known else _next_id(id)
            has_more |= watermarks.pass_by(priority, maturity_at, key, count, segments) and not is_known
        if has_more:
            return 0.0
        is_moving = self._move_counts.get(queue) != watermarks.move_count
        self._move_counts[queue] = watermarks.move_count
        return BUSY_PAUSE_SECONDS if is_moving else PAUSE_SECONDS * random.uniform(0.8, 1.0)

    async def block(self, queue: str) -> float:
        """One stretch behind the watermarks: block what is disabled, or known to no live runner and ready for the delay."""
        stretches = self._stretches.setdefault(queue, [])
        if not stretches:
            stretches.extend(self._watermarks[queue].slices())
        if stretches:
            rows = await self._link.rows(
                self._sql.block_types(queue=queue, delay=self._delay_seconds, limit=BLOCK_BATCH, **stretches[0]._asdict())
            )
            self._note(queue, rows)
            _go_on(stretches, rows)
        if stretches:
            return 0.0
        self._report(queue)
        return max(PAUSE_MIN_SECONDS, min(BLOCK_PAUSE_SECONDS, self._delay_seconds / 4)) * random.uniform(0.8, 1.0)

    async def free(self, queue: str) -> float:
        """Make a batch of tasks ready that were blocked for want of a runner that knows them, or of a type that was disabled."""
        rows = await self._link.rows(self._sql.free_types(queue=queue, types=self._types, limit=BLOCK_BATCH))
        for priority, maturity_at, id, _ in rows:
            self._watermarks[queue].retreat(priority, maturity_at, id)
        if rows:
            self._on_ready(queue)
        return 0.0 if rows and rows[0][3] >= BLOCK_BATCH else PAUSE_SECONDS * random.uniform(0.8, 1.0)

    def _note(self, queue: str, rows: list[Any]) -> None:
        counts = self._blocked.setdefault(queue, Counter())
        for type_name, way, count, *_ in rows:
            if way == "unknown":
                counts[type_name] += count

    def _report(self, queue: str) -> None:
        """Say once per type what was blocked and what to do."""
        for type_name, count in self._blocked.pop(queue, Counter()).items():
            if (queue, type_name) not in self._warned and len(self._warned) < WARNED_MAX:
                self._warned.add((queue, type_name))
                logger.warning(
                    "%s tasks of type %r in queue %r are blocked: no runner of this queue knows the type. Start one that "
                    "imports it (--tasks) and they run, or cancel them",
                    count,
                    type_name,
                    queue,
                )


def _next_id(id: str) -> str:
    """The id that follows: a watermark includes its own key, and a stranger there would hide what comes after it."""
    return str(uuid.UUID(int=min(uuid.UUID(id).int + 1, 2**128 - 1)))


def _go_on(stretches: list[Slice], rows: list[Any]) -> None:
    """Leave the first stretch, or what has been walked of it."""
    if rows and rows[0][5] >= BLOCK_BATCH:
        stretches[0] = stretches[0]._replace(lower_maturity=rows[0][3].isoformat(), lower_id=rows[0][4])
    else:
        del stretches[0]
