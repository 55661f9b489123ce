"""What a benchmark is made of: measurements, which are taken, and figures, which are read off them. Pure.

A measurement runs once a round and yields named values, `drain` the value `rate`; a figure is one value, or the ratio of two that
were measured in the same round. So the runs of a ratio share the machine's mood, and a drain that six figures need is run once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.ground import Ground

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something to run. `once`: it counts or waits, and repeating it says nothing new. `needs`: flags of the runner."""

    name: str
    measure: Callable[[Ground], Values]
    limit_seconds: float
    needs: tuple[str, ...] = ()
    once: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What is aimed at: at least so much, or at most."""

    value: float
    at_least: bool

    def is_reached(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g}"


def at_least(value: float) -> Target:
    return Target(value, at_least=True)


def at_most(value: float) -> Target:
    return Target(value, at_least=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `of` and `to` are `measurement.value`; with `to` the figure is their ratio, run by run."""

    name: str
    about: str
    unit: str
    of: str
    to: str | None = None
    target: Target | None = None

    @property
    def measurements(self) -> tuple[str, ...]:
        return tuple(value.partition(".")[0] for value in (self.of, self.to) if value is not None)


@dataclass(slots=True)
class Record:
    """What the runs of one measurement came to: the values of each run, or why there are none."""

    runs: list[Values] = field(default_factory=list)
    skipped: str | None = None
    failed: str | None = None

    @property
    def is_over(self) -> bool:
        return self.skipped is not None or self.failed is not None


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure with one value for each run, or with why there are none."""

    figure: Figure
    runs: list[float]
    skipped: str | None = None
    failed: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.runs) if self.runs else None

    @property
    def is_reached(self) -> bool | None:
        """None: there is no target, or nothing was measured."""
        if self.figure.target is None or self.median is None:
            return None
        return self.figure.target.is_reached(self.median)

    def as_json(self) -> dict[str, Any]:
        figure, target = self.figure, self.figure.target
        return {
            "name": figure.name,
            "about": figure.about,
            "unit": figure.unit,
            "target": None if target is None else {"at_least" if target.at_least else "at_most": target.value},
            "median": self.median,
            "low": min(self.runs, default=None),
            "high": max(self.runs, default=None),
            "runs": self.runs,
            "reached": self.is_reached,
            "skipped": self.skipped,
            "failed": self.failed,
        }


def read(figure: Figure, records: Mapping[str, Record]) -> Reading:
    """The figure's value for each run: of a ratio, the ratio within the run."""
    taken = [records[name] for name in figure.measurements]
    # What failed comes first: a figure may lack one half and have failed in the other.
    failed = next((record.failed for record in taken if record.failed is not None), None)
    skipped = next((record.skipped for record in taken if record.skipped is not None), None)
    if failed is not None or skipped is not None:
        return Reading(figure, [], skipped=skipped if failed is None else None, failed=failed)
    numerators = _column(records, figure.of)
    if figure.to is None:
        return Reading(figure, numerators)
    return Reading(figure, [one / other for one, other in zip(numerators, _column(records, figure.to), strict=True)])


def select(figures: Sequence[Figure], names: Iterable[str]) -> list[Figure]:
    """The figures of these names, all without names. Raises ValueError for a name that is none."""
    wanted = list(names)
    if unknown := set(wanted) - {figure.name for figure in figures}:
        known = ", ".join(figure.name for figure in figures)
        raise ValueError(f"there is no figure {min(unknown)!r}; there are {known}")
    return [figure for figure in figures if not wanted or figure.name in wanted]


def _column(records: Mapping[str, Record], path: str) -> list[float]:
    measurement, _, value = path.partition(".")
    return [run[value] for run in records[measurement].runs]
