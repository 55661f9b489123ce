"""Timezones: what a wall clock shows, and the instant that is meant by what it shows. Ground: pure."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from pgqueue.errors import ConfigurationError

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises ConfigurationError."""
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigurationError(
            f"timezone {str(name)[:80]!r} is not known: give an IANA name, such as 'Europe/Berlin'"
        ) from error


def offset_at(zone: ZoneInfo, instant: datetime) -> timedelta:
    """How far the wall clock is ahead of UTC at an instant."""
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def wall_at(zone: ZoneInfo, instant: datetime) -> datetime:
    """What the wall clock shows at an instant, as a naive datetime."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def instant_of(zone: ZoneInfo, wall: datetime) -> datetime:
    """When the wall clock shows this or, where it skips it, what comes first thereafter. Of a repeated time, the first."""
    aware = wall.replace(tzinfo=zone, fold=0)
    instant = aware.astimezone(UTC)
    if wall_at(zone, instant) == wall:
        return instant
    before_gap = aware.replace(fold=1).astimezone(UTC)
    return _change(zone, before_gap, instant)


def stretch(zone: ZoneInfo, begin: datetime) -> tuple[datetime, timedelta]:
    """Until when the offset of an instant holds, at most a day on, to the second; and that offset.

    Two changes within a day that cancel each other out would be missed: no zone has had such since 1930.
    """
    offset = offset_at(zone, begin)
    end = begin + _DAY
    return (end if offset_at(zone, end) == offset else _change(zone, begin, end)), offset


def _change(zone: ZoneInfo, begin: datetime, end: datetime) -> datetime:
    """The first whole second after `begin`, up to `end`, whose offset is another."""
    changed = partial(_has_changed, zone, begin, offset_at(zone, begin))
    return begin + bisect_left(range((end - begin) // _SECOND), True, key=changed) * _SECOND


def _has_changed(zone: ZoneInfo, begin: datetime, offset: timedelta, seconds: int) -> bool:
    return offset_at(zone, begin + seconds * _SECOND) != offset
