"""What happened, as lines for the screen of `pgqueue up`. Pure: an event goes in, a line comes out."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.text import Text

from pgqueue.cli.output import brief, precise
from pgqueue.doors import one_line
from pgqueue.outcomes import Outcome, Verdict

if TYPE_CHECKING:
    from pgqueue.cli.demo import Enqueued
    from pgqueue.completer import Settlement
    from pgqueue.schedules import Fired

TYPE_WIDTH_MAX = 24
OUTCOME_WIDTH = 12
DETAIL_MAX = 160
VALUE_MAX = 32
BESIDE_RESULT_MAX = 24
PAYLOAD_READ_MAX = 4_096
"""A longer payload is not parsed for a glance at it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One event. `below` is a second line, for what is to be copied."""

    glyph: str
    style: str
    type: str
    outcome: str
    task_id: str = ""
    took: timedelta | None = None
    detail: str = ""
    below: str = ""
    at: datetime | None = None


# Verdict: glyph, style, word.
_LOOKS = {
    Verdict.SUCCEEDED: ("✔", "green", "ok"),
    Verdict.SETTLED: ("✔", "green", "ok"),
    Verdict.CANCELLED: ("⊘", "yellow", "cancelled"),
    Verdict.IGNORED: ("○", "bright_black", "ignored"),
    Verdict.RETRIED: ("↻", "yellow", "retry in"),
    Verdict.DEAD: ("✖", "bold red", "dead"),
    Verdict.SNOOZED: ("☾", "cyan", "snoozed for"),
    Verdict.RETURNED: ("↩", "bright_black", "given back"),
}
_DELAYED = (Verdict.RETRIED, Verdict.SNOOZED)


def settled(settlement: Settlement, *, is_ours: bool, took: timedelta | None) -> Line:
    """An attempt that ended."""
    claimed, outcome = settlement.claimed, settlement.outcome
    if not is_ours:
        return Line(
            "!", "yellow", claimed.type, "lease lost", claimed.id, took, "somebody else settled it; this outcome is dropped"
        )
    glyph, style, word = _LOOKS[outcome.verdict]
    delay = f" {brief(timedelta(seconds=outcome.delay_seconds))}" if outcome.verdict in _DELAYED else ""
    detail = _reason(outcome) or _in_and_out(claimed.payload, outcome.result)
    if claimed.attempt > 1 and outcome.verdict is not Verdict.RETURNED:
        detail = f"attempt {claimed.attempt}: {detail}" if detail else f"attempt {claimed.attempt}"
    below = f"pgqueue task show {claimed.id}" if outcome.verdict is Verdict.DEAD else ""
    return Line(glyph, style, claimed.type, word + delay, claimed.id, took, detail, below)


def fired(slot: Fired) -> Line:
    """A schedule's slot that was due."""
    return Line("⟳", "bright_black", slot.type, "due", str(slot.task_id))


def skipped(name: str, reason: str, count: int) -> Line:
    """Slots that came to nothing; a computer that slept for a night has missed thousands."""
    return Line("⟳", "bright_black", name, "skipped", detail=f"{count:,} {'slot' if count == 1 else 'slots'}: {reason}")


def enqueued(event: Enqueued) -> Line:
    """What --demo enqueued."""
    handle, values, options = event
    notes = [_pairs(values)]
    if options.get("delay"):
        notes.append(f"in {brief(options['delay'])}")  # type: ignore[arg-type]  # given, as the line above says
    if options.get("priority"):
        notes.append(f"priority {options['priority']}")
    return Line("+", "bright_black", handle.type, "enqueued", str(handle.id), detail=", ".join(notes))


def logged(record: logging.LogRecord) -> Line:
    """A warning, or what a task logs."""
    style = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}.get(record.levelname, "bright_black")
    trace = record.exc_info[1] if record.exc_info else None
    error = f" ({type(trace).__name__}: {trace})" if trace is not None else ""
    return Line(
        "!" if record.levelno >= logging.WARNING else "·",
        style,
        record.name.removeprefix("pgqueue."),
        record.levelname.lower(),
        detail=record.getMessage() + error,
    )


def render(line: Line, *, type_width: int, width: int) -> Text:
    """The line in columns: time, glyph, type, short id, how long it took, outcome, and what fits of the rest."""
    at = line.at or datetime.now().astimezone()
    took = "" if line.took is None else precise(line.took)
    text = Text.assemble(
        (f"{at:%H:%M:%S}  ", "bright_black"),
        (f"{line.glyph} ", line.style),
        (f"{one_line(line.type)[:type_width]:<{type_width}}  ", "" if line.task_id else "bright_black"),
        (f"{line.task_id[-8:]:<8}  ", "bright_black"),
        f"{took:>6}  ",
        (f"{line.outcome:<{OUTCOME_WIDTH}}", line.style),
    )
    if line.detail:
        text.append("  " + one_line(line.detail)[:DETAIL_MAX], "bright_black")
    text.truncate(max(width, text.cell_len if not line.detail else 40), overflow="ellipsis")
    text.rstrip()
    if line.below:
        text.append(f"\n{'':>12}{line.below}", "red")
    return text


def _reason(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"{outcome.failure.error_type.rpartition('.')[2]}: {outcome.failure.error}"
    return outcome.reason or ""


def _in_and_out(payload: str, result: str | None) -> str:
    """What went in, and what came out; the result is the news, so the payload leaves it room."""
    taken = _glance(payload)
    if result is None:
        return taken
    return f"{_cut(taken, BESIDE_RESULT_MAX)} → {_glance(result)}".strip()


def _glance(text: str) -> str:
    """JSON at a glance: `to=ann@example.com subject="Hello there"`."""
    if len(text) > PAYLOAD_READ_MAX:
        return f"({len(text):,} characters)"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return one_line(text)
    return _pairs(value) if isinstance(value, dict) else _shown(value)


def _pairs(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value and " " not in value else json.dumps(value, ensure_ascii=False)
    return _cut(text, VALUE_MAX)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
