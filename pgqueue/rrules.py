"""`RRule`: when an RRULE is due, in a timezone. Ground: pure.

Two kinds. A rule that names its hours, or recurs by the day or longer, goes by the wall clock: each of its days (rrule_days.py)
has the same times (`WallSlots`). A rule of hours or minutes that names none follows elapsed time (`ElapsedSlots`): a plain grid,
whose days are asked one by one. So missed slots are counted by days and by division, and not by walking through them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice, product
from typing import Protocol
from zoneinfo import ZoneInfo

from pgqueue.errors import ConfigurationError
from pgqueue.recurrence import HORIZON
from pgqueue.rrule_days import DayLimits, Days, days_of, limits_of
from pgqueue.rrule_text import DEFAULT_START, SUB_DAILY, Parts, Stamp, read
from pgqueue.zones import instant_of, offset_at, stretch, wall_at, zone_of

_TICK = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_DAY_SECONDS = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_REACH_GROWTH = 4


class Slots(Protocol):
    """The slots of a rule without its end."""

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Those in (after, until], in order and each once."""

    def count(self, after: datetime, until: datetime) -> int:
        """How many those are, without walking through all of them."""


@dataclass(frozen=True, slots=True)
class RRule:
    """The rule of an RRULE in its one spelling, in a timezone. Made by `rule_of`."""

    text: str
    timezone: str
    slots: Slots = field(init=False, repr=False, compare=False)
    start_at: datetime = field(init=False, repr=False, compare=False)
    end_at: datetime | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts, zone = read(self.text), zone_of(self.timezone)
        start = _wall(zone, parts.start)
        object.__setattr__(self, "slots", _slots(parts, zone, start))
        object.__setattr__(self, "start_at", instant_of(zone, start))
        object.__setattr__(self, "end_at", None)
        if next(self.slots.between(self.start_at - _TICK, self.start_at + HORIZON), None) is None:
            raise ConfigurationError(f"rrule {self.text!r} never comes: no day or time is as it says")
        object.__setattr__(self, "end_at", self._end(parts, zone))
        if self.after(self.start_at - _TICK) is None:
            raise ConfigurationError(f"rrule {self.text!r} never comes: its UNTIL is before its first slot")

    def first(self, now: datetime) -> datetime | None:
        return self.after(now)

    def after(self, instant: datetime) -> datetime | None:
        begin = max(instant, self.start_at - _TICK)
        return next(self.slots.between(begin, self._bounded(begin + HORIZON)), None)

    def due(self, first: datetime, now: datetime, *, newest: int) -> tuple[int, list[datetime]]:
        begin, end = max(first, now - HORIZON, self.start_at - _TICK), self._bounded(now)
        count = self.slots.count(begin, end)
        return 1 + count, [first, *self._newest(begin, end, newest)][-newest:]

    def describe(self) -> str:
        return f"rrule {self.text} ({self.timezone})"

    def fingerprint(self) -> str:
        return f"rrule:{self.timezone}:{self.text}"

    def _bounded(self, until: datetime) -> datetime:
        return until if self.end_at is None else min(until, self.end_at)

    def _newest(self, begin: datetime, end: datetime, wanted: int) -> list[datetime]:
        """The last slots in (begin, end]; looked for further and further back."""
        reach = _DAY
        while end - reach > begin and self.slots.count(end - reach, end) < wanted:
            reach *= _REACH_GROWTH
        return list(self.slots.between(max(begin, end - reach), end))[-wanted:]

    def _end(self, parts: Parts, zone: ZoneInfo) -> datetime | None:
        """The last instant that UNTIL or COUNT leaves."""
        if parts.until is not None:
            return parts.until.wall.replace(tzinfo=UTC) if parts.until.is_utc else instant_of(zone, parts.until.wall)
        if parts.count is None:
            return None
        every = self.slots.between(self.start_at - _TICK, self.start_at + HORIZON)
        last = next(islice(every, parts.count - 1, None), None)
        if last is None:
            raise ConfigurationError(
                f"rrule {self.text!r} takes more than {HORIZON.days // 366} years for its COUNT: say with UNTIL when it ends"
            )
        return last


def rule_of(text: object, timezone: str | None = None) -> RRule:
    """The rule of a text, in this timezone, else in that of its DTSTART, else in UTC. Raises ConfigurationError."""
    parts = read(text)
    if timezone is not None and parts.timezone is not None and timezone != parts.timezone:
        raise ConfigurationError(
            f"rrule {str(text)[:200]!r} has TZID={parts.timezone} and timezone={timezone!r} beside it: keep one of them"
        )
    return RRule(parts.text(), (parts.timezone or "UTC") if timezone is None else timezone)


def _wall(zone: ZoneInfo, start: Stamp | None) -> datetime:
    if start is None:
        return DEFAULT_START
    return wall_at(zone, start.wall.replace(tzinfo=UTC)) if start.is_utc else start.wall


def _slots(parts: Parts, zone: ZoneInfo, start: datetime) -> Slots:
    if parts.frequency in SUB_DAILY and not parts.by("BYHOUR"):
        return _elapsed(parts, zone, start)
    return WallSlots(zone=zone, start=start, times=_times(parts, start), days=days_of(parts, start.date()))


def _times(parts: Parts, start: datetime) -> tuple[int, ...]:
    """The times of a day, in seconds; what is not named is as in the start."""
    seconds = parts.by("BYSECOND") or (start.second,)
    step = parts.interval if parts.frequency in SUB_DAILY else 1
    hours = parts.by("BYHOUR") or (start.hour,)
    if parts.frequency == "MINUTELY":
        named = product(hours, parts.by("BYMINUTE") or range(60))
        minutes = [
            hour * 60 + minute for hour, minute in named if (hour * 60 + minute - start.hour * 60 - start.minute) % step == 0
        ]
    else:
        of_grid = [hour for hour in hours if (hour - start.hour) % step == 0]
        minutes = [hour * 60 + minute for hour, minute in product(of_grid, parts.by("BYMINUTE") or (start.minute,))]
    return tuple(minute * 60 + second for minute, second in product(minutes, seconds))


# ── by the wall clock ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class WallSlots:
    """Days with the same times of the wall clock each, from a start on.

    Times that the clocks skip are one slot, at the first instant after the gap; of a repeated time only the first is one.
    """

    zone: ZoneInfo
    start: datetime
    times: tuple[int, ...]
    days: Days

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        reached = after
        for day in self._days(after, until):
            for slot in self._of(day):
                if slot > until:
                    return
                if slot > reached:
                    yield slot
                    reached = slot

    def count(self, after: datetime, until: datetime) -> int:
        """A day on whose eve, and on whose morrow, no clock is changed has as many as there are times."""
        offsets: dict[int, timedelta] = {}
        edges = (wall_at(self.zone, after).date() + _DAY, wall_at(self.zone, until).date() - _DAY)
        total, reached = 0, after
        for day in self._days(after, until):
            if edges[0] < day < edges[1] and day > self.start.date() and self._is_plain(day, offsets):
                total += len(self.times)
                continue
            for slot in self._of(day):
                if reached < slot <= until:
                    total, reached = total + 1, slot
        return total

    def _days(self, after: datetime, until: datetime) -> Iterator[date]:
        return self.days.between(wall_at(self.zone, after).date(), wall_at(self.zone, until).date() + _DAY)

    def _of(self, day: date) -> Iterator[datetime]:
        midnight = datetime.combine(day, datetime.min.time())
        for time in self.times:
            wall = midnight + time * _SECOND
            if wall >= self.start:
                yield instant_of(self.zone, wall)

    def _is_plain(self, day: date, offsets: dict[int, timedelta]) -> bool:
        ordinal = day.toordinal()
        for number in range(ordinal - 1, ordinal + 3):
            if number not in offsets:
                offsets[number] = offset_at(self.zone, datetime.fromordinal(number).replace(tzinfo=UTC))
        return len({offsets[number] for number in range(ordinal - 1, ordinal + 3)}) == 1


# ── by elapsed time ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Grid:
    """Seconds of a wall clock while its offset holds: every so many units of an hour or a minute, these seconds within each."""

    unit: int
    interval: int
    phase: int
    inside: tuple[int, ...]

    def points(self, low: int, high: int) -> Iterator[int]:
        """Those in [low, high), in order."""
        unit = low // self.unit
        for number in range(unit + (self.phase - unit) % self.interval, -(-high // self.unit), self.interval):
            yield from (point for second in self.inside if low <= (point := number * self.unit + second) < high)

    def count(self, low: int, high: int) -> int:
        """How many those are."""
        return self._below(high) - self._below(low) if low < high else 0

    def _below(self, point: int) -> int:
        unit, rest = divmod(point, self.unit)
        whole = -((self.phase - unit) // self.interval) * len(self.inside)
        return whole + (bisect_left(self.inside, rest) if (unit - self.phase) % self.interval == 0 else 0)


@dataclass(frozen=True, slots=True)
class ElapsedSlots:
    """A grid of elapsed time, on the days of the wall clock that the rule allows: in both passes of a repeated hour."""

    zone: ZoneInfo
    start_at: datetime
    unit: int
    interval: int
    inside: tuple[int, ...]
    """Seconds within each unit; empty: those of the start."""
    limits: DayLimits

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        for low, high, grid, offset in self._pieces(after, until):
            for point in grid.points(low, high):
                yield _EPOCH + point * _SECOND - offset

    def count(self, after: datetime, until: datetime) -> int:
        return sum(grid.count(low, high) for low, high, grid, _ in self._pieces(after, until))

    def _pieces(self, after: datetime, until: datetime) -> Iterator[tuple[int, int, Grid, timedelta]]:
        """The parts of allowed days in (after, until], each of one offset, in seconds of the wall clock."""
        begin, stop = max(after + _TICK, self.start_at), until + _TICK
        while begin < stop:
            # From a whole second, so that the end is one.
            end, offset = stretch(self.zone, begin.replace(microsecond=0))
            grid = self._grid(offset)
            low, high = _second(begin + offset), _second(min(end, stop) + offset)
            while low < high:
                day = low // _DAY_SECONDS
                cut = min(high, (day + 1) * _DAY_SECONDS)
                if self.limits.allow(date.fromordinal(_EPOCH_DAY + day)):
                    yield low, cut, grid, offset
                low = cut
            begin = end

    def _grid(self, offset: timedelta) -> Grid:
        unit, rest = divmod(_second(self.start_at + offset), self.unit)
        return Grid(self.unit, self.interval, unit % self.interval, self.inside or (rest,))


def _elapsed(parts: Parts, zone: ZoneInfo, start: datetime) -> ElapsedSlots:
    """Minutes of which some are named are the same in every hour, so they are a rule of hours."""
    seconds = parts.by("BYSECOND") or (start.second,)
    named = parts.by("BYMINUTE")
    unit, interval = (3600, parts.interval) if parts.frequency == "HOURLY" else (60, parts.interval)
    inside: tuple[int, ...] = ()
    if named:
        if parts.frequency == "MINUTELY":
            named = tuple(minute for minute in named if (minute - start.minute) % parts.interval == 0)
            unit, interval = 3600, 1
        inside = tuple(minute * 60 + second for minute, second in product(named, seconds))
        if not inside:
            raise ConfigurationError(f"rrule {parts.text()!r} never comes: its INTERVAL passes over each BYMINUTE")
    elif parts.by("BYSECOND"):
        inside = tuple((start.minute * 60 if unit == 3600 else 0) + second for second in seconds)
    return ElapsedSlots(
        zone=zone,
        start_at=instant_of(zone, start),
        unit=unit,
        interval=interval,
        inside=inside,
        limits=limits_of(parts),
    )


def _second(instant: datetime) -> int:
    """The first whole second at or after it, counted from 1970."""
    return -((_EPOCH - instant) // _SECOND)
