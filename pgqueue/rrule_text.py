"""RRULE as text (RFC 5545): read into parts, checked against each other, and written back in one spelling. Ground: pure.

Takes `FREQ=WEEKLY;BYDAY=MO,WE`, with `RRULE:` before it or not, and a DTSTART line before that, divided by any white space. What
calendars agree on is taken; what one reads so and another otherwise is refused with the reason. `rrules.py` says when it is due.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from pgqueue.errors import ConfigurationError

LONGEST_RRULE = 1_000
INTERVALS_MAX = {"YEARLY": 50, "MONTHLY": 600, "WEEKLY": 2_600, "DAILY": 18_250, "HOURLY": 100_000, "MINUTELY": 100_000}
"""Fifty years at most: no slot is looked for further ahead, so a longer pause would be taken for the end of the rule."""
COUNT_MAX = 10_000
"""More are walked through at no reasonable price; UNTIL= and max_runs= have no such limit."""
EXAMPLE = "'FREQ=WEEKLY;BYDAY=MO,FR;BYHOUR=9;BYMINUTE=30'"
DTSTART_EXAMPLE = "'DTSTART:20260105T090000 RRULE:FREQ=WEEKLY;INTERVAL=2'"
DEFAULT_START = datetime(2001, 1, 1)  # noqa: DTZ001  # wall-clock time in the rule's zone
"""Midnight of a Monday, 1 January: where a rule without DTSTART starts, so what it leaves open is the first of its period."""

WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
SUB_DAILY = {"HOURLY": 24, "MINUTELY": 1440}
"""How many of them a day has."""
_RANGES = {
    "BYMONTH": range(1, 13),
    "BYWEEKNO": range(1, 54),
    "BYYEARDAY": range(1, 367),
    "BYMONTHDAY": range(1, 32),
    "BYHOUR": range(24),
    "BYMINUTE": range(60),
    "BYSECOND": range(60),
    "BYSETPOS": range(1, 367),
}
_POSITIONS = {"WEEKLY": 7, "MONTHLY": 31, "YEARLY": 366}
"""How many days a period has at most, for BYSETPOS to choose from."""
_SIGNED = ("BYWEEKNO", "BYYEARDAY", "BYMONTHDAY", "BYSETPOS")
_NAMES = (
    "FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST",
    "BYMONTH", "BYWEEKNO", "BYYEARDAY", "BYMONTHDAY", "BYDAY", "BYHOUR", "BYMINUTE", "BYSECOND", "BYSETPOS",
)  # fmt: skip
_STAMP = re.compile(r"(\d{8})(?:T(\d{6})(Z)?)?", re.ASCII)
_BYDAY = re.compile(rf"([+-]?\d{{1,2}})?({'|'.join(WEEKDAYS)})", re.ASCII)


class Weekday(NamedTuple):
    """A day of the week, Monday 0, and which of them in the month or year; 0: every one."""

    day: int
    nth: int


class Stamp(NamedTuple):
    """An instant as written: wall-clock time, in UTC or in the zone of the rule."""

    wall: datetime
    is_utc: bool

    def __str__(self) -> str:
        return f"{self.wall:%Y%m%dT%H%M%S}{'Z' if self.is_utc else ''}"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a rule says. Numbers are sorted, each once; an empty tuple means that nothing is said."""

    frequency: str
    interval: int
    count: int | None
    until: Stamp | None
    week_start: int
    weekdays: tuple[Weekday, ...]
    numbers: dict[str, tuple[int, ...]]
    start: Stamp | None
    timezone: str | None
    """The TZID of its DTSTART."""

    def by(self, name: str) -> tuple[int, ...]:
        return self.numbers.get(name, ())

    def text(self) -> str:
        """The rule in its one spelling."""
        said = {
            "FREQ": self.frequency,
            "INTERVAL": str(self.interval) if self.interval > 1 else "",
            "COUNT": "" if self.count is None else str(self.count),
            "UNTIL": "" if self.until is None else str(self.until),
            "WKST": WEEKDAYS[self.week_start] if self.week_start else "",
            "BYDAY": ",".join(f"{nth or ''}{WEEKDAYS[day]}" for day, nth in self.weekdays),
            **{name: ",".join(map(str, values)) for name, values in self.numbers.items()},
        }
        rule = ";".join(f"{name}={said[name]}" for name in _NAMES if said.get(name))
        return rule if self.start is None else f"DTSTART:{self.start} RRULE:{rule}"


def read(text: object) -> Parts:
    """The parts of a rule. Raises ConfigurationError, with the reason, for what is no rule or could be read in two ways."""
    if not isinstance(text, str) or len(text) > LONGEST_RRULE or not text.isascii():
        raise ConfigurationError(f"rrule takes up to {LONGEST_RRULE} ASCII characters, such as {EXAMPLE}, not {str(text)[:80]!r}")
    try:
        parts = _parts(text)
        _check_together(parts)
        _check_start(parts)
    except ConfigurationError as error:
        raise ConfigurationError(f"rrule {text.strip()[:200]!r} {error}") from error
    return parts


def _parts(text: str) -> Parts:
    start, timezone, rule = _lines(text)
    said = dict(_pairs(rule))
    frequency = said.get("FREQ", "")
    if frequency == "SECONDLY":
        raise ConfigurationError("is for seconds: use frequency=timedelta(seconds=5) for those")
    if frequency not in INTERVALS_MAX:
        raise ConfigurationError(f"takes FREQ= one of {', '.join(INTERVALS_MAX)}, as in {EXAMPLE}, not {frequency or 'none'}")
    count = said.get("COUNT")
    until = said.get("UNTIL")
    if count is not None and until is not None:
        raise ConfigurationError("says with both COUNT and UNTIL when it ends: keep one of them")
    return Parts(
        frequency=frequency,
        interval=_number("INTERVAL", said.get("INTERVAL", "1"), range(1, INTERVALS_MAX[frequency] + 1)),
        count=None if count is None else _number("COUNT", count, range(1, COUNT_MAX + 1)),
        until=None if until is None else _stamp("UNTIL", until, end_of_day=True),
        week_start=_week_start(said.get("WKST", "MO")),
        weekdays=tuple(sorted(_weekdays(said["BYDAY"]))) if "BYDAY" in said else (),
        numbers={name: _numbers(name, said[name]) for name in _RANGES if name in said},
        start=start,
        timezone=timezone,
    )


def _lines(text: str) -> tuple[Stamp | None, str | None, str]:
    """DTSTART, its TZID, and the rule itself without its name."""
    start: Stamp | None = None
    timezone: str | None = None
    rules = []
    for word in text.split():
        name, colon, value = word.partition(":")
        kind = name.partition(";")[0].upper() if colon else "RRULE"
        if kind == "RRULE":
            rules.append(value if colon else word)
        elif kind == "DTSTART" and start is None:
            start, timezone = _stamp("DTSTART", value.upper()), _tzid(name)
        else:
            raise ConfigurationError(f"holds {kind[:40]!r}: it takes one DTSTART and one RRULE, as in {DTSTART_EXAMPLE}")
    if len(rules) != 1:
        raise ConfigurationError(f"holds {len(rules)} rules: it takes one, such as {EXAMPLE}")
    if start is not None and start.is_utc and timezone is not None:
        raise ConfigurationError("says with both Z and TZID in which zone DTSTART is: keep one of them")
    return start, timezone, rules[0].upper()


def _tzid(name: str) -> str | None:
    parameters = name.split(";")[1:]
    if not parameters:
        return None
    key, _, value = parameters[0].partition("=")
    if len(parameters) > 1 or key.upper() != "TZID" or not value:
        raise ConfigurationError(f"takes DTSTART;TZID=Europe/Berlin:... or DTSTART:..., not {name[:80]!r}")
    return value


def _pairs(rule: str) -> Iterator[tuple[str, str]]:
    seen = set()
    for pair in rule.removesuffix(";").split(";"):
        name, equals, value = pair.partition("=")
        if not equals or not value:
            raise ConfigurationError(f"is not written as NAME=VALUE;NAME=VALUE at {pair[:40]!r}: write it as {EXAMPLE}")
        if name not in _NAMES:
            raise ConfigurationError(f"has {name[:40]!r}, which is not known: the names are {', '.join(_NAMES)}")
        if name in seen:
            raise ConfigurationError(f"says {name} twice: keep one of them")
        seen.add(name)
        yield name, value


def _number(name: str, text: str, allowed: range) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) not in allowed:
        hint = "; UNTIL= and max_runs= have no such limit" if name == "COUNT" else ""
        raise ConfigurationError(f"takes {name}= from {allowed[0]} to {allowed[-1]}, not {text[:40]!r}{hint}")
    return int(text)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    allowed, numbers = _RANGES[name], set()
    for part in text.split(","):
        sign = part[:1] if part[:1] in "+-" and name in _SIGNED else ""
        number = _number(name, part[len(sign) :], allowed)
        numbers.add(-number if sign == "-" else number)
    return tuple(sorted(numbers))


def _weekdays(text: str) -> set[Weekday]:
    found = set()
    for part in text.split(","):
        match = _BYDAY.fullmatch(part)
        nth = int(match[1] or 0) if match else 0
        if match is None or abs(nth) > 53 or (match[1] and nth == 0):
            raise ConfigurationError(f"takes BYDAY= of {', '.join(WEEKDAYS)}, 2TU or -1FR, not {part[:40]!r}")
        found.add(Weekday(WEEKDAYS.index(match[2]), nth))
    return found


def _week_start(text: str) -> int:
    if text not in WEEKDAYS:
        raise ConfigurationError(f"takes WKST= one of {', '.join(WEEKDAYS)}, not {text[:40]!r}")
    return WEEKDAYS.index(text)


def _stamp(name: str, text: str, *, end_of_day: bool = False) -> Stamp:
    """`20260105T090000`, with Z for UTC; a date alone is its midnight, or the last second of its day."""
    match = _STAMP.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        wall = datetime.strptime(match[1] + (match[2] or "000000"), "%Y%m%d%H%M%S")  # noqa: DTZ007  # wall-clock time
    except ValueError:
        raise ConfigurationError(f"takes {name} as 20260105T090000, with Z at the end for UTC, not {text[:40]!r}") from None
    if not 1900 <= wall.year < 9000:
        raise ConfigurationError(f"takes {name} from the years 1900 to 8999, not {wall.year}")
    if end_of_day and match[2] is None:
        wall += timedelta(days=1, seconds=-1)
    return Stamp(wall, match[3] is not None)


def _check_together(parts: Parts) -> None:
    """Refuse what RFC 5545 does not allow beside each other, and what would have to be guessed."""
    frequency = parts.frequency
    nth = any(weekday.nth for weekday in parts.weekdays)
    by_month = frequency == "MONTHLY" or bool(parts.by("BYMONTH"))
    refusals = {
        "has numbers in BYDAY, which belong to FREQ=MONTHLY and YEARLY": nth and frequency not in ("MONTHLY", "YEARLY"),
        "has a number in BYDAY above 5, and no month has so many": by_month and any(abs(one.nth) > 5 for one in parts.weekdays),
        "has numbers in BYDAY beside BYWEEKNO: keep one of them": nth and bool(parts.by("BYWEEKNO")),
        "has BYWEEKNO, which belongs to FREQ=YEARLY": bool(parts.by("BYWEEKNO")) and frequency != "YEARLY",
        "has BYWEEKNO without BYDAY: say which days of the week": bool(parts.by("BYWEEKNO")) and not parts.weekdays,
        "has BYYEARDAY, which does not belong to FREQ=DAILY, WEEKLY and MONTHLY": bool(parts.by("BYYEARDAY"))
        and frequency in ("DAILY", "WEEKLY", "MONTHLY"),
        "has BYMONTHDAY, which does not belong to FREQ=WEEKLY": bool(parts.by("BYMONTHDAY")) and frequency == "WEEKLY",
    }
    for reason, is_wrong in refusals.items():
        if is_wrong:
            raise ConfigurationError(reason)
    _check_positions(parts)
    if frequency in SUB_DAILY:
        _check_sub_daily(parts)


def _check_positions(parts: Parts) -> None:
    """BYSETPOS counts days here; with several times a day it would have to say of which."""
    if not parts.by("BYSETPOS"):
        return
    most = _POSITIONS.get(parts.frequency, 0)
    if not most:
        raise ConfigurationError(f"has BYSETPOS, which belongs to FREQ={', '.join(_POSITIONS)}")
    if any(abs(position) > most for position in parts.by("BYSETPOS")):
        raise ConfigurationError(f"takes BYSETPOS up to {most} with FREQ={parts.frequency}")
    if any(len(parts.by(name)) > 1 for name in ("BYHOUR", "BYMINUTE", "BYSECOND")):
        raise ConfigurationError("has BYSETPOS beside several times a day: keep one time, or make a schedule of each")
    if not (parts.weekdays or any(parts.by(name) for name in _RANGES if name != "BYSETPOS")):
        raise ConfigurationError("has BYSETPOS and nothing else for it to choose from: add BYDAY or BYMONTHDAY")


def _check_sub_daily(parts: Parts) -> None:
    """Where hours or minutes are named, every day must have the same: the interval must divide what it is counted in."""
    if parts.by("BYHOUR") and SUB_DAILY[parts.frequency] % parts.interval:
        raise ConfigurationError(f"has BYHOUR and INTERVAL={parts.interval}, which does not divide a day: each day would differ")
    if parts.frequency == "MINUTELY" and parts.by("BYMINUTE") and 60 % parts.interval:
        raise ConfigurationError(f"has BYMINUTE and INTERVAL={parts.interval}, which does not divide an hour: each would differ")


def _check_start(parts: Parts) -> None:
    """What counts from a start needs one. Within a day every start at midnight gives the same."""
    if parts.start is not None:
        return
    divides_day = parts.frequency in SUB_DAILY and SUB_DAILY[parts.frequency] % parts.interval == 0
    needs = "COUNT" if parts.count is not None else "INTERVAL" if parts.interval > 1 and not divides_day else None
    if needs is not None:
        raise ConfigurationError(
            f"counts its {needs} from a start and names none: begin it with DTSTART, as in {DTSTART_EXAMPLE}. "
            f"(Without it a rule starts on {DEFAULT_START:%A, %d %B %Y}, at midnight)"
        )
