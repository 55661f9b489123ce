"""A lane: one connection that claims batches. Between client and worker on a task's way: it runs claim.sql, nothing else.

Every task is leased when it is claimed: status running, runner, and a fresh `claim_id`, the fence.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from pgqueue.context import Claimed
from pgqueue.link import Link
from pgqueue.statements import Statements
from pgqueue.watermark import WHOLE, Segments, Watermarks

logger = logging.getLogger("pgqueue.lane")
HEAD_SCAN_SHARE = 0.1
"""Part of a runner's time that scans from the head may take."""
HEAD_SCAN_INTERVAL_SECONDS = 0.05
"""The shortest time between two of them."""


class Lane:
    """Claims for one runner, queue by queue, each from its own watermarks."""

    def __init__(self, sql: Statements, link: Link, *, runner_id: uuid.UUID, types: Sequence[str]) -> None:
        self._sql = sql
        self._link = link
        self._runner_id = str(runner_id)
        self._types = list(types)
        self._watermarks: dict[str, Watermarks] = {}
        self._head_scan_at: dict[str, float] = {}
        self.round_trip_seconds = 0.0
        """How long the last claim took."""
        self.in_flight: str | None = None
        """The claim whose answer may be on its way."""

    async def claim(self, queue: str, limit: int) -> list[Claimed]:
        """Up to `limit` tasks of this queue, in the order to run them. Commits. Raises what psycopg raises."""
        watermarks = self._watermarks.setdefault(queue, Watermarks())
        segments = watermarks.segments()
        if segments is not WHOLE and self._may_scan_head(queue):
            batch = await self._scan_head(queue, limit)
        else:
            batch = await self._claim(queue, limit, segments)
        watermarks.advance(batch)
        batch.sort(key=_run_order)
        return batch

    def give_back(self, returned: Iterable[Claimed]) -> None:
        """These go back to the queue as they came: the watermarks go back to them."""
        for claimed in returned:
            self.retreat(claimed.queue, claimed.priority, claimed.maturity_at, claimed.id)

    def retreat(self, queue: str, priority: int, maturity_at: Any, id: str) -> None:
        """A task of this key is ready (again)."""
        if queue in self._watermarks:
            self._watermarks[queue].retreat(priority, maturity_at, id)

    async def _scan_head(self, queue: str, limit: int) -> list[Claimed]:
        """Claim from the head, behind the watermarks too, at the price of the dead entries there.

        A scan that finds nothing counts too. Never more than `limit`: a task beyond it would wait here while others idle.
        """
        started_at = time.monotonic()
        found = await self._claim(queue, limit, WHOLE)
        spent = time.monotonic() - started_at
        self._head_scan_at[queue] = time.monotonic() + max(HEAD_SCAN_INTERVAL_SECONDS, spent * (1 / HEAD_SCAN_SHARE - 1))
        return found

    def _may_scan_head(self, queue: str) -> bool:
        return time.monotonic() >= self._head_scan_at.get(queue, 0.0)

    async def _claim(self, queue: str, limit: int, segments: Segments) -> list[Claimed]:
        self.in_flight = claim_id = str(uuid.uuid4())
        connection = await self._link.connection()
        started_at = time.monotonic()
        cursor = connection.cursor(binary=True)
        await cursor.execute(
            self._sql.claim.text,
            {
                "queue": queue,
                "types": self._types,
                "runner_id": self._runner_id,
                "claim_id": claim_id,
                "limit": limit,
                "first_priorities": segments.first_priorities,
                "maturities": segments.maturities,
                "ids": segments.ids,
                "last_priorities": segments.last_priorities,
            },
            prepare=True,
        )
        rows = await cursor.fetchall()
        self.round_trip_seconds = time.monotonic() - started_at
        return [Claimed(queue, claim_id, *row) for row in rows]


def _run_order(claimed: Claimed) -> tuple[int, Any, str]:
    """The order of RETURNING is no order."""
    return -claimed.priority, claimed.maturity_at, claimed.id
