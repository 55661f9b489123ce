"""Writes down what the tasks of a runner log about themselves: log_lines.sql, over the connection of its upkeep."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg

from pgqueue.context import Claimed
from pgqueue.database import is_refused_value
from pgqueue.errors import PgQueueError
from pgqueue.journal import BATCH_MAX, FLUSH_SECONDS, LINES_MAX, Journal, Line
from pgqueue.link import Link
from pgqueue.statements import Statements

logger = logging.getLogger("pgqueue.recorder")


class Recorder:
    """Empties the journal, a batch at a time. Used by one coroutine."""

    def __init__(self, sql: Statements, journal: Journal, *, is_running: Callable[[Claimed], bool]) -> None:
        self._sql = sql
        self._journal = journal
        self._is_running = is_running
        self._not_before = 0.0

    def is_due(self) -> bool:
        """Whether there is something to write by now."""
        now = time.monotonic()
        return now >= self._not_before and self._journal.is_due(now, self._is_running)

    @property
    def is_empty(self) -> bool:
        return self._journal.is_empty

    async def write(self, link: Link, *, is_last: bool = False) -> None:
        """Write what waits. Raises what psycopg raises; then nothing is lost, and a line may be written twice.

        `is_last`: every attempt counts as ended.
        """
        is_running = _nothing_runs if is_last else self._is_running
        for _ in range(LINES_MAX // BATCH_MAX):
            now = time.monotonic()
            lines = self._journal.take(now, is_running)
            if not lines:
                return
            try:
                await link.rows(self._sql.log_lines(**_arrays(lines, now)))
            except BaseException as error:
                if isinstance(error, psycopg.Error) and is_refused_value(error):
                    logger.error("%s lines of tasks cannot be stored, and are dropped: %s", len(lines), error)
                    continue
                self._not_before = now + FLUSH_SECONDS
                self._journal.put_back(lines)
                raise

    async def write_last(self, link: Link) -> None:
        """At the end of the runner: once, whatever comes of it."""
        try:
            await self.write(link, is_last=True)
        except (psycopg.Error, PgQueueError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            logger.warning("the last lines that tasks logged cannot be written: %s", reason)


def _nothing_runs(claimed: Claimed) -> bool:
    return False


def _arrays(lines: list[Line], now: float) -> dict[str, Any]:
    return {
        "queues": [line.queue for line in lines],
        "task_ids": [line.task_id for line in lines],
        "attempts": [line.attempt for line in lines],
        "ages": [max(0.0, now - line.at) for line in lines],
        "levels": [line.level for line in lines],
        "messages": [line.message for line in lines],
        "progresses": [line.progress for line in lines],
    }
