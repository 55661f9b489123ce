"""How many tasks a runner claims beyond its free slots. Pure.

About two round trips' worth of work at the measured pace: for tasks that end at once that is hundreds, so that no slot waits for
the network; for tasks of a second it is none, so that no task waits in one runner's pocket while another runner idles.

Work comes in runs: of a task, or of a call that takes many tasks of a batch type. A slot is worth as many tasks as the runs of
late were wide, so that calls are full where there is enough to do, and nothing is held for batch types while none of them runs.
"""

from __future__ import annotations

import math

SMOOTHING = 0.2
"""Weight of the newest measurement in a moving average."""
RUNS_REMEMBERED = 200
"""Runs that the mean duration is of, about: fewer, and a few quick ones in a row would hide that every tenth is slow."""
PACE_SECONDS = 0.1
"""The time that the measured pace is of, about: tasks end in bursts, a batch at a time."""
ROUND_TRIPS = 2.0


class Prefetch:
    """Measures durations and round trips, and says how many tasks to hold."""

    def __init__(self, *, concurrency: int, limit: int, width: int = 1) -> None:
        self._concurrency = concurrency
        self._limit = limit
        self._seconds = 0.0
        self._run_count = 0.0
        self._round_trip_seconds = 0.002
        self._finished_count = 0
        self._pace = 0.0
        self._measured_at: float | None = None
        self._width = float(width)

    def observe_duration(self, seconds: float, count: int = 1) -> None:
        """So many runs took about this long each."""
        if self._run_count >= RUNS_REMEMBERED:
            self._seconds /= 2
            self._run_count /= 2
        self._seconds += seconds * count
        self._run_count += count
        self._finished_count += count

    def observe_width(self, width: int) -> None:
        """The run might have had so many tasks."""
        self._width += SMOOTHING * (width - self._width)

    def observe_round_trip(self, seconds: float, now: float) -> None:
        """A claim took this long, and it is `now` on a monotonic clock."""
        self._round_trip_seconds += SMOOTHING * (seconds - self._round_trip_seconds)
        if self._measured_at is not None:
            seconds = max(now - self._measured_at, 1e-6)
            weight = 1.0 if not self._pace else 1.0 - math.exp(-seconds / PACE_SECONDS)
            self._pace += weight * (self._finished_count / seconds - self._pace)
        self._finished_count, self._measured_at = 0, now

    def buffer(self) -> int:
        """Tasks to hold beyond the slots: 0 until a duration has been measured."""
        if not self._run_count:
            return 0
        # What the slots could do by the measured durations, or what they did of late: tasks that end at once wait for each other
        # on the loop, which makes them look slower than they are.
        pace = max(self._concurrency / max(self._seconds / self._run_count, 1e-6), self._pace)
        # Whole runs: a part of one would make the next call a small one.
        runs = int(min(self._limit, ROUND_TRIPS * self._round_trip_seconds * pace))
        return min(self._limit, runs * self._tasks_per_run)

    @property
    def _tasks_per_run(self) -> int:
        return max(1, round(self._width))

    def _ahead(self, free_count: int) -> int:
        """Tasks to hold beyond one for each slot: the buffer, and what fills the calls that free slots could make."""
        return min(self._limit, self.buffer() + free_count * (self._tasks_per_run - 1))

    def room(self, in_hand: int, free_count: int = 0) -> int:
        """How many more could be held now, however few, with so many slots free."""
        return max(0, self._concurrency + self._ahead(free_count) - in_hand)

    def room_below(self) -> int:
        """The most that may be in hand for a request to be worth it."""
        buffer = self.buffer()
        return self._concurrency + buffer - max(1, buffer // 2)

    def request(self, in_hand: int, free_count: int = 0) -> int:
        """How many to claim now, holding `in_hand`; 0 while that would be too few to be worth a round trip."""
        room = self.room(in_hand, free_count)
        return room if room >= max(1, self.buffer() // 2) else 0
