"""The days of an RRULE, in order. Weeks, months and years are dateutil's; a rule by the day is asked day by day. Ground: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Protocol

from pgqueue.rrule_text import SUB_DAILY, Parts

_DAY = timedelta(days=1)
_MIDNIGHT = datetime.min.time()
_LIMITS = ("BYMONTH", "BYWEEKNO", "BYYEARDAY", "BYMONTHDAY", "BYSETPOS")


class Days(Protocol):
    """The days of a rule, from its start on."""

    def between(self, low: date, high: date) -> Iterator[date]:
        """Those in [low, high], in order."""


@dataclass(frozen=True, slots=True)
class DayLimits:
    """Which days a rule allows, whatever the period; negative numbers count from the end. Empty: any."""

    months: frozenset[int]
    year_days: frozenset[int]
    month_days: frozenset[int]
    weekdays: frozenset[int]

    def allow(self, day: date) -> bool:
        """Whether a day is allowed."""
        if self.months and day.month not in self.months:
            return False
        if self.weekdays and day.weekday() not in self.weekdays:
            return False
        if self.month_days and not self.month_days & _both_ends(day, day.replace(day=1), _month_after(day)):
            return False
        year, next_year = date(day.year, 1, 1), date(day.year + 1, 1, 1)
        return not self.year_days or bool(self.year_days & _both_ends(day, year, next_year))


@dataclass(frozen=True, slots=True)
class EveryDay:
    """Every so many days of those that are allowed."""

    start: date
    interval: int
    limits: DayLimits

    def between(self, low: date, high: date) -> Iterator[date]:
        day = self.start + _whole((low - self.start).days, self.interval) * _DAY
        while day <= high:
            if day >= low and self.limits.allow(day):
                yield day
            day += self.interval * _DAY


@dataclass(frozen=True, slots=True)
class Periods:
    """Days of weeks, months or years, as dateutil finds them; `limits` are its arguments."""

    frequency: str
    interval: int
    week_start: int
    start: date
    limits: dict[str, Any]

    def between(self, low: date, high: date) -> Iterator[date]:
        # Here, since most programs have no rrule.
        from dateutil import rrule  # type: ignore[import-untyped]  # it ships no types

        low = max(low, self.start)
        found = rrule.rrule(
            getattr(rrule, self.frequency),
            dtstart=datetime.combine(self._period(low), _MIDNIGHT),
            until=datetime.combine(high, _MIDNIGHT),
            interval=self.interval,
            wkst=self.week_start,
            byhour=0,
            byminute=0,
            bysecond=0,
            **self.limits,
        )
        return (day.date() for day in found if day.date() >= low)

    def _period(self, low: date) -> date:
        """The first day of the last period that begins by then: dateutil would walk there from the start."""
        start, step = self.start, self.interval
        if self.frequency == "YEARLY":
            return date(start.year + _whole(low.year - start.year, step), 1, 1)
        if self.frequency == "MONTHLY":
            first = _month(start)
            year, month = divmod(first + _whole(_month(low) - first, step), 12)
            return date(year, month + 1, 1)
        week = start - (start.weekday() - self.week_start) % 7 * _DAY
        return week + _whole((low - week).days, 7 * step) * _DAY


def days_of(parts: Parts, start: date) -> Days:
    """What is left open is as in the start: its day of the week, of the month, of the year."""
    if parts.frequency == "DAILY" or parts.frequency in SUB_DAILY:
        return EveryDay(start, parts.interval if parts.frequency == "DAILY" else 1, limits_of(parts))
    from dateutil import rrule

    limits: dict[str, Any] = {name.lower(): list(parts.by(name)) for name in _LIMITS if parts.by(name)}
    if parts.weekdays:
        limits["byweekday"] = [rrule.weekday(day, nth or None) for day, nth in parts.weekdays]
    if not limits.keys() - {"bymonth", "bysetpos"}:
        limits |= {"byweekday": [start.weekday()]} if parts.frequency == "WEEKLY" else {"bymonthday": [start.day]}
        if parts.frequency == "YEARLY":
            limits.setdefault("bymonth", [start.month])
    return Periods(parts.frequency, parts.interval, parts.week_start, start, limits)


def limits_of(parts: Parts) -> DayLimits:
    """What a rule by the day, the hour or the minute says of its days."""
    return DayLimits(
        months=frozenset(parts.by("BYMONTH")),
        year_days=frozenset(parts.by("BYYEARDAY")),
        month_days=frozenset(parts.by("BYMONTHDAY")),
        weekdays=frozenset(weekday.day for weekday in parts.weekdays),
    )


def _whole(distance: int, step: int) -> int:
    """As many whole steps as fit into a distance, none if it is negative."""
    return max(0, distance) // step * step


def _month(day: date) -> int:
    return day.year * 12 + day.month - 1


def _month_after(day: date) -> date:
    year, month = divmod(_month(day) + 1, 12)
    return date(year, month + 1, 1)


def _both_ends(day: date, first: date, following: date) -> frozenset[int]:
    """The day's number in [first, following), from the front and, negative, from the back."""
    return frozenset(((day - first).days + 1, (day - following).days))
