"""Paces: which task types end so soon that a row lock is claim enough for them. Pure.

A lane's transaction stays open while its tasks run, so only tasks that end well within its patience may be locked first. A type
starts out leased; it is locked first once its measured runs say that it is quick, and one slow run sends it back for a while.
"""

from __future__ import annotations

from collections.abc import Iterable

RUNS_MIN = 10
"""Runs to measure before a type may count as quick."""
SHARE = 0.25
"""Well within the patience: the average run takes at most this part of it."""
SMOOTHING = 0.1
"""Weight of the newest run in the average."""
PROBATION_MIN = 100
PROBATION_MAX = 10_000
"""Runs in a row that must not be slow before a type that was is trusted again; doubled each time it disappoints."""


class _Pace:
    __slots__ = ("average", "is_quick", "probation", "runs_left")

    def __init__(self) -> None:
        self.average = 0.0
        self.runs_left = RUNS_MIN
        self.probation = PROBATION_MIN
        self.is_quick = False


class Paces:
    """The measured runs of one runner's types. `patience_seconds` 0: nothing is ever quick."""

    def __init__(self, types: Iterable[str], *, patience_seconds: float, leased: Iterable[str] = ()) -> None:
        self._types = list(types)
        self._limit = patience_seconds
        self._leased = set(leased)
        self._paces = {name: _Pace() for name in self._types}
        self.slow = list(self._types)
        """The types to lease with the claim."""
        self.any_quick = False

    def observe(self, type_name: str, seconds: float) -> None:
        """A run of this type took so long."""
        pace = self._paces.get(type_name)
        if pace is None:
            return
        pace.average += SMOOTHING * (seconds - pace.average)
        if seconds > self._limit * SHARE * 2:
            self._disappoint(pace)
        elif pace.runs_left:
            pace.runs_left -= 1
        elif pace.is_quick is not (pace.average <= self._limit * SHARE):
            pace.is_quick = not pace.is_quick
            self._rebuild()

    def lease_always(self, type_name: str) -> None:
        """This type must own its row when it runs."""
        self._leased.add(type_name)
        self._rebuild()

    def _disappoint(self, pace: _Pace) -> None:
        if pace.is_quick:
            pace.probation = min(PROBATION_MAX, pace.probation * 2)
            pace.is_quick = False
            self._rebuild()
        pace.runs_left = max(pace.runs_left, pace.probation)

    def _rebuild(self) -> None:
        if self._limit <= 0:
            return
        self.slow = [name for name in self._types if name in self._leased or not self._paces[name].is_quick]
        self.any_quick = len(self.slow) < len(self._types)
