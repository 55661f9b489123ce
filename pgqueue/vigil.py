"""What a supervisor concludes from what it sees of a child. Pure: `now` and all instants are CLOCK_MONOTONIC, in seconds.

A child that blocks its loop, or holds the GIL, is not dead: it is beaten for. It is killed when it outstays the timeout of a
task, or when others may soon start what it runs because nobody could renew its lease.
"""

from __future__ import annotations

from dataclasses import dataclass

LAPSE_SHARE = 2 / 3
"""A lease that could not be renewed for this part of it is given up, before others may start its tasks."""
UNREACHED_SHARE = 1 / 2
"""A child that lives and has not reached the database for this part of the lease is not beaten for."""
STALL_SHARE = 1 / 3
STALL_SECONDS_MAX = 5.0
"""A loop that has stood still for so long is reported."""
TRIES_SHARE = 1 / 10
"""Beats must have been tried for this part of the lease: a supervisor that was itself stopped for a while may renew first."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to see of a child. 0 stands for never, or none."""

    is_busy: bool
    tick_at: float
    reached_at: float
    lane_opened_at: float
    beat_at: float
    trying_since: float | None


class Vigil:
    """Over one child, from its first beat to its end."""

    def __init__(self, *, lease_seconds: float, now: float) -> None:
        self._lease = lease_seconds
        self._stall_after = min(STALL_SECONDS_MAX, lease_seconds * STALL_SHARE)
        self._turning_since = now
        self._last_tick_at = now
        self._is_stalled = False

    def look(self, sight: Sight, *, now: float) -> str | None:
        """What to say about the child's loop, once per stall: for how long it has been standing still, or that it goes on."""
        if sight.tick_at > self._last_tick_at:
            if sight.tick_at - self._last_tick_at > self._stall_after:
                self._turning_since = sight.tick_at
            self._last_tick_at = sight.tick_at
        stood_still = now - self._last_tick_at > self._stall_after
        if stood_still is self._is_stalled:
            return None
        self._is_stalled = stood_still
        return f"does not answer for {self._stall_after:g} s: a task blocks it" if stood_still else "answers again"

    def may_beat(self, sight: Sight, *, now: float) -> bool:
        """No beat for a child that lives, and could have, but did not reach the database: it is cut off alone."""
        if self._is_stalled or now - self._last_tick_at > self._stall_after:
            return True
        return now - max(sight.reached_at, self._turning_since) <= self._lease * UNREACHED_SHARE

    def lapse(self, sight: Sight, *, now: float) -> str | None:
        """Why the child must be killed before others start its tasks, if it must."""
        limit = self._lease * LAPSE_SHARE
        if sight.lane_opened_at and now - sight.lane_opened_at > limit:
            return f"a transaction that locks its tasks is open for {now - sight.lane_opened_at:.1f} s"
        if not sight.is_busy or not sight.beat_at or now - sight.beat_at <= limit:
            return None
        if self.may_beat(sight, now=now) and (
            sight.trying_since is None or now - sight.trying_since <= self._lease * TRIES_SHARE
        ):
            return None
        return f"its lease could not be renewed for {now - sight.beat_at:.1f} s"


def pause(fallen_count: int) -> float:
    """Seconds before a child is started anew that fell so many times in a row: 0, then 0.2 s and twice that each time."""
    return 0.0 if fallen_count <= 1 else min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN * 2.0 ** min(fallen_count - 2, 30))


PAUSE_SECONDS_MIN = 0.2
PAUSE_SECONDS_MAX = 30.0
HEALTHY_SECONDS = 60.0
"""A child that lived for this long falls for the first time again."""
