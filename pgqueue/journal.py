"""What tasks say about themselves, `context.log` and `context.progress()`, until it is written down. Ground: no I/O here.

Lines gather in one buffer for the whole runner and are written in batches by its upkeep. Nothing a task does here waits, whatever
the database does: what does not fit is dropped and counted, and one line says how many. Any thread may write.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from pgqueue.context import Claimed
from pgqueue.outcomes import clean

LINES_MAX = 10_000
"""Lines that wait to be written, of all tasks of a runner: so many may be lost in an outage, and more are dropped."""
BATCH_MAX = 500
"""Lines that one statement carries at most."""
FLUSH_SECONDS = 1.0
"""How long a line waits for others; at the end of its attempt it does not."""
PROGRESS_STEP = 100
"""After every so many stored, the pause between two reports of progress doubles: a task of a day leaves about a thousand."""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

Write = Callable[[int, str, float | None], None]


class Line(NamedTuple):
    """One line. `at` is an instant of this machine's monotonic clock; `progress` None: it reports none."""

    queue: str
    task_id: str
    attempt: int
    at: float
    level: int
    message: str
    progress: float | None


class TaskLog:
    """The log of a running attempt. Arguments are merged as in `logging`: `log.info("%s of %s", done, total)`.

    The lines are stored with the task: `queue.logs(task)`, `pgqueue task show`. Never waits and never fails the task.
    """

    __slots__ = ("_write",)

    def __init__(self, write: Write) -> None:
        self._write = write

    def debug(self, message: object, *arguments: object) -> None:
        self._write(logging.DEBUG, _merged(message, arguments), None)

    def info(self, message: object, *arguments: object) -> None:
        self._write(logging.INFO, _merged(message, arguments), None)

    def warning(self, message: object, *arguments: object) -> None:
        self._write(logging.WARNING, _merged(message, arguments), None)

    def error(self, message: object, *arguments: object) -> None:
        self._write(logging.ERROR, _merged(message, arguments), None)

    def report(self, fraction: float, message: object, arguments: tuple[object, ...]) -> None:
        """Progress, as `context.progress` takes it. Raises ValueError for what is no fraction."""
        progress = _fraction(fraction)
        self._write(logging.INFO, _merged(message, arguments), progress)


class Journal:
    """The lines of a runner's attempts, in the order they came, bounded per attempt and in all."""

    def __init__(self, *, lines_per_attempt: int, characters: int, limit: int = LINES_MAX) -> None:
        self._lines_per_attempt = lines_per_attempt
        self._characters = characters
        self._limit = limit
        self._lock = threading.Lock()
        self._lines: deque[Line] = deque()
        self._entries: dict[Claimed, _Entry] = {}
        self._taken_at = 0.0
        self._hurries = False
        """An attempt that no entry knows of has ended."""

    def open(self, claimed: Claimed) -> TaskLog:
        """The log of an attempt; the same for every thread that asks."""
        with self._lock:
            entry = self._entries.get(claimed)
            if entry is None:
                entry = self._entries[claimed] = _Entry(claimed)
            return TaskLog(lambda level, message, progress: self._note(entry, level, message, progress))

    def put(self, lines: list[Line], are_last: bool) -> None:
        """Lines that were bounded elsewhere, in the process of a task, which has ended if they `are_last`."""
        with self._lock:
            room = max(0, self._limit - len(self._lines))
            self._lines.extend(lines[:room])
            if dropped := lines[room:]:
                self._lines.append(_summary(dropped[0], len(dropped)))
            self._hurries = self._hurries or are_last

    def put_back(self, lines: list[Line]) -> None:
        """Lines that could not be written: they are the next to be taken."""
        with self._lock:
            self._lines.extendleft(reversed(lines))

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be written."""
        with self._lock:
            return not self._lines and not any(entry.waits for entry in self._entries.values())

    def is_due(self, now: float, is_running: Callable[[Claimed], bool]) -> bool:
        """Whether it is time to write: after a second, when an attempt has ended, or when a batch is full."""
        if not self._lines and not self._entries:
            return False
        with self._lock:
            if self._hurries or len(self._lines) >= BATCH_MAX or any(not is_running(claimed) for claimed in self._entries):
                return True
            has_more = bool(self._lines) or any(entry.is_due(now) for entry in self._entries.values())
            return has_more and now - self._taken_at >= FLUSH_SECONDS

    def take(self, now: float, is_running: Callable[[Claimed], bool]) -> list[Line]:
        """The next lines to write, up to a batch; of attempts that have ended, also what they are summed up with."""
        with self._lock:
            self._taken_at, self._hurries = now, False
            for claimed, entry in list(self._entries.items()):
                has_ended = not is_running(claimed)
                self._lines.extend(entry.take(now, has_ended=has_ended))
                if has_ended:
                    del self._entries[claimed]
            taken = [self._lines.popleft() for _ in range(min(BATCH_MAX, len(self._lines)))]
        taken.sort(key=lambda line: line.at)  # progress was kept apart; stable, so lines of one instant keep their order
        return taken

    def _note(self, entry: _Entry, level: int, message: str, progress: float | None) -> None:
        text = clean(message[: self._characters])
        if len(message) > self._characters:
            text = f"{text}… ({len(message):,} characters)"
        claimed = entry.claimed
        line = Line(claimed.queue, claimed.id, claimed.attempt, time.monotonic(), level, text, progress)
        with self._lock:
            self._entries.setdefault(claimed, entry)  # a thread that was given up may write after its attempt has ended
            if progress is not None:
                entry.progress = line
            elif entry.line_count >= self._lines_per_attempt or len(self._lines) >= self._limit:
                entry.dropped_count += 1
            else:
                entry.line_count += 1
                self._lines.append(line)


class _Entry:
    """What is known of one attempt that has logged."""

    __slots__ = ("claimed", "dropped_count", "line_count", "progress", "progress_at", "progress_count")

    def __init__(self, claimed: Claimed) -> None:
        self.claimed = claimed
        self.line_count = self.dropped_count = self.progress_count = 0
        self.progress: Line | None = None
        """The latest report of progress; those before it are not worth a line."""
        self.progress_at = 0.0
        """From when on the next one is."""

    @property
    def waits(self) -> bool:
        return self.progress is not None or self.dropped_count > 0

    def is_due(self, now: float) -> bool:
        return self.progress is not None and now >= self.progress_at

    def take(self, now: float, *, has_ended: bool) -> list[Line]:
        lines = []
        if self.progress is not None and (has_ended or self.is_due(now)):
            lines.append(self.progress)
            self.progress = None
            self.progress_at = now + FLUSH_SECONDS * 2.0 ** (self.progress_count // PROGRESS_STEP)
            self.progress_count += 1
        if self.dropped_count and has_ended:
            claimed = self.claimed
            last = Line(claimed.queue, claimed.id, claimed.attempt, now, logging.WARNING, "", None)
            lines.append(_summary(last, self.dropped_count))
            self.dropped_count = 0
        return lines


def _summary(last: Line, count: int) -> Line:
    """The one line that stands for so many which were dropped."""
    said = f"{count:,} more lines were dropped: task_log_lines bounds them, or the database was away"
    return last._replace(level=logging.WARNING, message=said, progress=None)


def level_name(level: int) -> str:
    """The name of a stored level."""
    return next((name for name, number in LEVELS.items() if level <= number), "error")


def _merged(message: object, arguments: tuple[object, ...]) -> str:
    """Message and arguments as `logging` merges them; what cannot be merged is shown as it came."""
    try:
        text = str(message)
        if not arguments:
            return text
        values: Any = arguments
        if len(arguments) == 1 and isinstance(arguments[0], dict) and arguments[0]:
            values = arguments[0]
        return str(text % values)
    except Exception as mistake:  # user code: __str__ and __format__ may raise anything
        return f"(a line that cannot be formatted: {type(mistake).__name__}) {_shown(message)}"


def _shown(message: object) -> str:
    return message if isinstance(message, str) else object.__repr__(message)


def _fraction(fraction: object) -> float:
    try:
        if isinstance(fraction, bool | str):
            raise TypeError
        value = float(fraction)  # type: ignore[arg-type]  # it refuses what is no number
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"context.progress takes a number from 0 to 1, not {fraction!r:.100}")
    return value
