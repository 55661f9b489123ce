"""The screen of `pgqueue up`: one line an event, and below them, on a terminal, what runs at this moment.

The engine tells it things on its loop, so it only takes notes then; `tick` writes them down, a bounded number at a time.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pgqueue.cli import events
from pgqueue.cli.events import Line
from pgqueue.cli.output import PIPE_WIDTH, brief
from pgqueue.outcomes import Verdict
from pgqueue.states import Status

if TYPE_CHECKING:
    from pgqueue.cli.demo import Enqueued
    from pgqueue.completer import Settlement
    from pgqueue.context import Claimed
    from pgqueue.schedules import Fired

LINES_PER_TICK = 25
"""Beyond that a tick says how many more there were: a queue of no-op tasks ends faster than anybody reads."""
NOTES_MAX = 10_000
SUMMARY_SECONDS = 15.0
RUNNING_SHOWN = 4

_DONE = (Verdict.SUCCEEDED, Verdict.SETTLED)


class Narrator:
    """Tells a person what happens. Its methods may be called before `open` and after `close`."""

    def __init__(self, type_names: Iterable[str]) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = PIPE_WIDTH
        self._type_width = min(events.TYPE_WIDTH_MAX, max(10, *map(len, type_names)))
        self._notes: deque[Callable[[], Line]] = deque()
        self._dropped = 0
        self._skipped: Counter[tuple[str, str]] = Counter()
        self._running: dict[tuple[str, str], tuple[str, float]] = {}
        self._live: Live | None = None
        self._summary_at = time.monotonic() + SUMMARY_SECONDS
        self._summarised = ""
        self._started_at = time.monotonic()
        self.totals: Counter[Verdict] = Counter()
        self.counts: Counter[Status] = Counter()
        """Tasks by status, as somebody counted them lately."""
        self.farewell = ""
        """What the last line says instead while the program is stopping."""

    # ── what it is told ─────────────────────────────────────────────────────────────────────────────────────────────

    def started(self, claimed: Claimed) -> None:
        self._running[claimed.id, claimed.claim_id] = (claimed.type, time.monotonic())

    def settled(self, settlement: Settlement, is_ours: bool) -> None:
        begun = self._running.pop((settlement.claimed.id, settlement.claimed.claim_id), None)
        took = None if begun is None else timedelta(seconds=time.monotonic() - begun[1])
        verdict = settlement.outcome.verdict
        if is_ours:
            self.totals[verdict] += 1
        if begun is not None or verdict is not Verdict.RETURNED:
            self._note(lambda: events.settled(settlement, is_ours=is_ours, took=took))

    def fired(self, slot: Fired) -> None:
        if slot.task_id is None:
            self._skipped[slot.type, slot.reason or ""] += 1
        else:
            self._note(lambda: events.fired(slot))

    def enqueued(self, event: Enqueued) -> None:
        self._note(lambda: events.enqueued(event))

    def logged(self, record: logging.LogRecord) -> None:
        """Called from any thread."""
        self._note(lambda: events.logged(record))

    def _note(self, describe: Callable[[], Line]) -> None:
        if len(self._notes) >= NOTES_MAX:
            self._dropped += 1
            return
        at = datetime.now().astimezone()
        self._notes.append(lambda: replace(describe(), at=at))

    # ── what it says ────────────────────────────────────────────────────────────────────────────────────────────────

    def say(self, line: str = "", style: str = "") -> None:
        self.console.print(Text(line, style), soft_wrap=True)

    def facts(self, rows: Iterable[tuple[str, str]]) -> None:
        """The header: a label and what it is about, a line each; wrapped within their column on a terminal."""
        if not self.console.is_terminal:
            for label, value in rows:
                self.say(f"  {label:<8}  {value}".rstrip())
            return
        grid = Table.grid(padding=(0, 2))
        grid.add_column(min_width=8, style="bold cyan")
        for label, value in rows:
            grid.add_row(label, Text(value))
        self.console.print(Padding(grid, (0, 2)))

    def open(self) -> None:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True, get_renderable=self._footer)
            self._live.start()

    def close(self) -> None:
        """Write down what is left, and give the terminal back."""
        while self._notes or self._dropped:
            self.tick()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def tick(self) -> None:
        """Write down what was noted since the last tick. Called several times a second, on one thread."""
        for (name, reason), count in self._skipped.items():
            self._note(partial(events.skipped, name, reason, count))
        self._skipped.clear()
        for _ in range(min(len(self._notes), LINES_PER_TICK)):
            line = self._notes.popleft()()
            self.console.print(events.render(line, type_width=self._type_width, width=self.console.width), soft_wrap=True)
        if more := len(self._notes) + self._dropped:
            self._notes.clear()
            self._dropped = 0
            self.say(f"{'':>10}… and {more:,} more", "bright_black")
        if self._live is not None:
            self._live.refresh()
        elif time.monotonic() >= self._summary_at:
            self._summarise()

    def _summarise(self) -> None:
        """Where there is no terminal, what its last line would say; not twice the same."""
        self._summary_at = time.monotonic() + SUMMARY_SECONDS
        if (summary := f"{self._waiting()}; so far {self.total_words()}") != self._summarised:
            self.say(f"{datetime.now().astimezone():%H:%M:%S}  – {summary}")
            self._summarised = summary

    def _footer(self) -> Text:
        now = time.monotonic()
        running = [f"{name} {now - begun:.1f}s" for name, begun in list(self._running.values())[:RUNNING_SHOWN]]
        if (more := len(self._running) - RUNNING_SHOWN) > 0:
            running.append(f"{more} more")
        doing = f": {', '.join(running)}" if running else ""
        tail = self.farewell or f"{self._waiting()} · {self.total_words()}"
        dot = ("●", "green") if self._running else ("○", "bright_black")
        text = Text.assemble("\n", dot, (f" running {len(self._running)}", "bold"), doing, (f"  ·  {tail}", "bright_black"))
        text.truncate(2 * self.console.width, overflow="ellipsis")
        return text

    def _waiting(self) -> str:
        words = [
            f"{self.counts[status]:,} {status}"
            for status in (Status.READY, Status.SCHEDULED, Status.BLOCKED)
            if self.counts[status]
        ]
        return ", ".join(words) or "nothing waits"

    def total_words(self) -> str:
        """`34 done, 2 retried, 1 dead`."""
        done = sum(self.totals[verdict] for verdict in _DONE)
        others = (Verdict.RETRIED, Verdict.DEAD, Verdict.SNOOZED, Verdict.CANCELLED, Verdict.IGNORED, Verdict.RETURNED)
        words = [f"{self.totals[verdict]:,} {_WORDS[verdict]}" for verdict in others if self.totals[verdict]]
        return ", ".join([f"{done:,} done", *words])

    def uptime(self) -> str:
        return brief(timedelta(seconds=time.monotonic() - self._started_at))

    @property
    def running_count(self) -> int:
        return len(self._running)


_WORDS = {
    Verdict.RETRIED: "retried",
    Verdict.DEAD: "dead",
    Verdict.SNOOZED: "snoozed",
    Verdict.CANCELLED: "cancelled",
    Verdict.IGNORED: "ignored",
    Verdict.RETURNED: "given back",
}


class LogLines(logging.Handler):
    """Sends what is logged to the screen. Of our own loggers warnings only: the screen tells the rest better."""

    def __init__(self, narrator: Narrator) -> None:
        super().__init__()
        self._narrator = narrator

    def filter(self, record: logging.LogRecord) -> Any:
        return (record.levelno >= logging.WARNING or not record.name.startswith("pgqueue.")) and super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        self._narrator.logged(record)
