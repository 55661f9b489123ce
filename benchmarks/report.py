"""The table for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import Reading

HEAD = ("figure", "what", "median", "range", "target", "")
REACHED = {True: "reached", False: "MISSED", None: ""}


def table(facts: Mapping[str, Any], readings: Sequence[Reading]) -> str:
    """One line a figure; a missed target stands out, and what was skipped or failed says why."""
    rows = [HEAD, *(_row(reading) for reading in readings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    lines = [_line(row, widths) for row in rows]
    lines += [f"{reading.figure.name}: skipped, {reading.skipped}" for reading in readings if reading.skipped]
    lines += [f"{reading.figure.name}: FAILED, {reading.failed}" for reading in readings if reading.failed]
    return "\n".join([_title(facts), "", *lines])


def number(value: float) -> str:
    """Three digits are all that a benchmark knows."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _title(facts: Mapping[str, Any]) -> str:
    ground = f"PostgreSQL {facts['postgresql']}, Python {facts['python']}, {facts['cores']} cores, {facts['tasks']:,} tasks"
    return f"{ground}; quick sizes, so the figures mean little" if facts["quick"] else ground


def _row(reading: Reading) -> tuple[str, ...]:
    figure, target = reading.figure, reading.figure.target
    aim = "" if target is None else f"{target} {figure.unit}".rstrip()
    if reading.median is None:
        return figure.name, figure.about, "–", "", aim, "skipped" if reading.skipped else "FAILED"
    median = f"{number(reading.median)} {figure.unit}".rstrip()
    spread = f"{number(min(reading.runs))} – {number(max(reading.runs))}" if len(reading.runs) > 1 else ""
    return figure.name, figure.about, median, spread, aim, REACHED[reading.is_reached]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    *cells, last = row
    return "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last]).rstrip()
