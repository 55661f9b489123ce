"""When a recurring task is due: a fixed frequency, a cron expression or an RRULE in a timezone.

Pure: a `Recurrence` is asked with instants and answers with instants, always aware and in UTC; nothing here knows a
schedule's row, and the clock is an argument. The scheduler stores what `catch_up` says.

Cron is read by croniter and stepped here. Time in a zone is cut into spans of one UTC offset; inside one, wall-clock
minutes are plain integers, so a year of missed minutes is counted by day patterns and not by walking through them.
(croniter's own steps take about 20 µs each, and fire a repeated local time twice.)
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal, NamedTuple, Protocol, get_args
from zoneinfo import ZoneInfo

from pgqueue.durations import format_duration, parse_duration
from pgqueue.errors import ConfigurationError
from pgqueue.zones import stretch, zone_of

Missed = Literal["last", "skip", "all"]

SHORTEST_FREQUENCY = timedelta(milliseconds=100)
LONGEST_FREQUENCY = timedelta(days=3660)
SKIP_GRACE = timedelta(seconds=60)
"""With `skip`, the newest due slot still fires up to this age: a scheduler that polls or fails over is late, not down."""
MOST_CAUGHT_UP = 10_000
HORIZON = timedelta(days=50 * 366)
"""How far a cron search looks ahead (29 February on one weekday comes every 40 years at worst), and how far back it counts."""
LONGEST_EXPRESSION = 500

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES = {name: number for names, first in ((_MONTHS, 1), (_WEEKDAYS, 0)) for number, name in enumerate(names, first)}
_RANGE = re.compile(r"([a-z]+|\d+)-([a-z]+|\d+)(/\d+)?", re.ASCII)
_LAST_WEEKDAY = -1

_TICK = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_DAY_MINUTES = 1440
_YEARS = range(1900, 9800)


@dataclass(frozen=True, slots=True)
class Due:
    """What a schedule owes at an instant. Slots that fire and slots skipped are together all that were due.

    fire: the slots to fire now, oldest first. skipped_first_at, skipped_last_at: the oldest and the newest slot that is
    skipped, None if none is; the skipped are the oldest, without a hole. next_run_at: the first slot that is left, None
    when there is none.
    """

    fire: tuple[datetime, ...]
    skipped_count: int
    skipped_first_at: datetime | None
    skipped_last_at: datetime | None
    next_run_at: datetime | None


class Rule(Protocol):
    """What a kind of recurrence must answer. All instants are aware and in UTC."""

    def first(self, now: datetime) -> datetime | None:
        """The first slot of a schedule registered at `now`."""

    def after(self, instant: datetime) -> datetime | None:
        """The first slot strictly after an instant; None: there is none any more."""

    def due(self, first: datetime, now: datetime, *, newest: int) -> tuple[int, list[datetime]]:
        """How many slots lie in [first, now], `first` being one, and the newest of them, oldest first."""

    def describe(self) -> str:
        """For people."""

    def fingerprint(self) -> str:
        """Equal if and only if the definition is."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """When a recurring task is due. Made by `every`, `from_cron` or `from_rrule`; equal if defined equally.

    Every instant that goes in must be aware (ConfigurationError otherwise); every one that comes out is in UTC.
    """

    rule: Rule

    @classmethod
    def every(cls, frequency: timedelta | float | str) -> Recurrence:
        """A fixed frequency: a timedelta, seconds, or text such as "5m". Slots keep to the grid of the first one.

        Raises ConfigurationError unless it lies between SHORTEST_FREQUENCY and LONGEST_FREQUENCY.
        """
        length = parse_duration(frequency)
        if not SHORTEST_FREQUENCY <= length <= LONGEST_FREQUENCY:
            raise ConfigurationError(
                f"frequency={format_duration(length)} is outside {format_duration(SHORTEST_FREQUENCY)} to "
                f"{LONGEST_FREQUENCY.days} days: give one such as frequency=timedelta(seconds=5)"
            )
        return cls(Every(length))

    @classmethod
    def from_cron(cls, expression: str, timezone: str = "UTC") -> Recurrence:
        """A cron expression of five fields (or @hourly, @daily, @weekly, @monthly, @yearly) in an IANA timezone.

        Lists, ranges, steps and names as usual; besides `L` (last day of the month), `5#2` (second Friday) and `L5` (last
        Friday). Day of month and day of week: either may match, as in Vixie cron, unless one begins with `*`: then both must.

        Local times: one that the clocks skip fires once, at the first instant after the gap; one that they repeat fires
        once, the first time. An expression for every hour (`*/15 * * * *`) follows elapsed time instead: it fires
        in both passes of a repeated hour, and not for a skipped one.

        Raises ConfigurationError with the reason: wrong syntax, an unknown timezone, an expression that never comes.
        """
        return cls(Cron(_canonical(expression), timezone))

    @classmethod
    def from_rrule(cls, text: str, timezone: str | None = None) -> Recurrence:
        """An RRULE of RFC 5545 in an IANA timezone: `FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17`, a DTSTART before it or not.

        FREQ from MINUTELY to YEARLY. What the rule leaves open is as in its DTSTART; without one it starts on Monday, 1 January
        2001, at midnight. COUNT, and an INTERVAL that does not divide a day, need a DTSTART.

        Local times: as for cron. A rule of hours or minutes without BYHOUR follows elapsed time.

        Raises ConfigurationError with the reason: wrong parts, an unknown timezone, a rule that never comes.
        """
        # Here, since this module holds what that one is made of.
        from pgqueue.rrules import rule_of

        return cls(rule_of(text, timezone))

    def first(self, now: datetime, *, start_at: datetime | None = None) -> datetime | None:
        """The first slot when registered at `now`: for a frequency `now` itself, else the next one strictly after.

        With `start_at` none is before it; a frequency then keeps to its grid, whenever it is registered.
        """
        at = _utc(now, "now")
        if start_at is None:
            return self.rule.first(at)
        start = _utc(start_at, "start_at")
        if isinstance(self.rule, Every):
            return start + max(0, -((start - at) // self.rule.frequency)) * self.rule.frequency
        return self.rule.after(max(at, start - _TICK))

    def after(self, instant: datetime) -> datetime | None:
        """The next slot strictly after an instant; None: there is none any more.

        A frequency counts from the instant, so give the previous slot, not the clock.
        """
        return self.rule.after(_utc(instant, "instant"))

    def catch_up(
        self,
        *,
        next_run_at: datetime,
        now: datetime,
        missed: Missed = "last",
        bound: int = 100,
        end_at: datetime | None = None,
        runs: int | None = None,
    ) -> Due:
        """Divide the slots due in [next_run_at, now] into those to fire and those to skip. `next_run_at` counts as a slot.

        missed="last": the newest due slot fires. "skip": it fires only if it is at most SKIP_GRACE old. "all": the newest
        `bound` (1 to MOST_CAUGHT_UP) fire. The rest is skipped. Of slots older than HORIZON only `next_run_at` counts,
        but for a frequency.

        end_at: what is later is no slot. runs: how many may still fire; with "all" it is the oldest of those that would, and what
        is due after them is left for the next look.
        """
        start, current = _utc(next_run_at, "next_run_at"), _utc(now, "now")
        last = None if end_at is None else _utc(end_at, "end_at")
        _check_policy(missed, bound)
        if runs == 0 or (last is not None and start > last):
            return Due((), 0, None, None, None)
        end = current if last is None else min(current, last)
        if start > end:
            return Due((), 0, None, None, start)
        wanted = bound if missed == "all" else 1
        count, newest = self.rule.due(start, end, newest=wanted + 1)
        late = missed == "skip" and current - newest[-1] > SKIP_GRACE
        chosen = () if late else tuple(newest[-wanted:])
        before = newest[: len(newest) - len(chosen)]
        fire = chosen if runs is None else chosen[:runs]
        return Due(
            fire=fire,
            skipped_count=count - len(chosen),
            skipped_first_at=start if before else None,
            skipped_last_at=before[-1] if before else None,
            next_run_at=chosen[len(fire)] if len(fire) < len(chosen) else self._next(newest[-1], last),
        )

    def _next(self, slot: datetime, end_at: datetime | None) -> datetime | None:
        following = self.rule.after(slot)
        return None if following is None or (end_at is not None and following > end_at) else following

    def describe(self) -> str:
        """For people: "every 5 s", "cron 0 3 * * * (Europe/Berlin)", "rrule FREQ=DAILY (UTC)"."""
        return self.rule.describe()

    def fingerprint(self) -> str:
        """A text that changes if and only if the definition does, in every process and release."""
        return self.rule.fingerprint()


@dataclass(frozen=True, slots=True)
class Every:
    """The rule of a fixed frequency: plain arithmetic, however many slots were missed."""

    frequency: timedelta

    def first(self, now: datetime) -> datetime:
        return now

    def after(self, instant: datetime) -> datetime:
        return instant + self.frequency

    def due(self, first: datetime, now: datetime, *, newest: int) -> tuple[int, list[datetime]]:
        count = (now - first) // self.frequency + 1
        return count, [first + number * self.frequency for number in range(max(0, count - newest), count)]

    def describe(self) -> str:
        return "every " + re.sub(r"([a-z]+)", r" \1 ", format_duration(self.frequency)).strip()

    def fingerprint(self) -> str:
        return f"every:{self.frequency // _TICK}"


class Span(NamedTuple):
    """A stretch of one UTC offset: wall-clock minutes [low, high), and the slot that a gap before it was moved to, if any."""

    moved: datetime | None
    low: int
    high: int
    offset: timedelta


@dataclass(frozen=True, slots=True)
class Cron:
    """The rule of a cron expression, in its canonical spelling, in a timezone."""

    expression: str
    timezone: str
    pattern: Pattern = field(init=False, repr=False, compare=False)
    zone: ZoneInfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", _pattern(self.expression))
        object.__setattr__(self, "zone", zone_of(self.timezone))

    def first(self, now: datetime) -> datetime:
        return self.after(now)

    def after(self, instant: datetime) -> datetime:
        for span in self._spans(instant, instant + HORIZON):
            for slot in self._slots(span):
                return slot
        raise ConfigurationError(f"cron {self.expression!r} has no slot in the {HORIZON.days // 366} years after {instant}")

    def due(self, first: datetime, now: datetime, *, newest: int) -> tuple[int, list[datetime]]:
        spans = list(self._spans(max(first, now - HORIZON), now))
        counts = [(span.moved is not None) + self.pattern.count(span.low, span.high) for span in spans]
        begin, reach = len(spans), 0
        while begin and reach < newest:
            begin -= 1
            reach += counts[begin]
        slots = [slot for span in spans[begin:] for slot in self._slots(span)]
        return 1 + sum(counts), [first, *slots][-newest:]

    def describe(self) -> str:
        return f"cron {self.expression} ({self.timezone})"

    def fingerprint(self) -> str:
        return f"cron:{self.timezone}:{self.expression}"

    def _slots(self, span: Span) -> Iterator[datetime]:
        if span.moved is not None:
            yield span.moved
        for minute in self.pattern.minutes(span.low, span.high):
            yield _instant(minute, span.offset)

    def _spans(self, after: datetime, until: datetime) -> Iterator[Span]:
        """The spans with the slots in (after, until]. It begins a day early, to know which wall times are repeats."""
        earliest, stop = after + _TICK, until + _TICK
        begin = after.replace(microsecond=0) - _DAY
        reached: int | None = None  # wall times below it have come already
        while begin < stop:
            end, offset = stretch(self.zone, begin)
            low, high = _minute(begin, offset), _minute(end, offset)
            if reached is None or self.pattern.is_elapsed:
                reached = low
            gap = begin >= earliest and self.pattern.count(reached, low) > 0 and self.pattern.count(low, low + 1) == 0
            yield Span(
                begin if gap else None,
                max(reached, low, _minute(earliest, offset)),
                min(high, _minute(stop, offset)),
                offset,
            )
            reached, begin = high, end


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which wall-clock minutes an expression names; a minute is a whole number, 1440 times the day's ordinal plus its own."""

    times: tuple[int, ...]
    is_elapsed: bool
    month_days: frozenset[int | str]
    months: frozenset[int | str]
    weekdays: frozenset[int | str]
    nth_weekdays: frozenset[tuple[int, int]]
    is_either: bool

    def count(self, low: int, high: int) -> int:
        """How many minutes in [low, high) match."""
        if low >= high:
            return 0
        days = sum(map(self.matches, range(low // _DAY_MINUTES, high // _DAY_MINUTES)))
        return days * len(self.times) - self._before(low) + self._before(high)

    def minutes(self, low: int, high: int) -> Iterator[int]:
        """The minutes in [low, high) that match, in order."""
        for day in range(low // _DAY_MINUTES, (high - 1) // _DAY_MINUTES + 1):
            if self.matches(day):
                start = day * _DAY_MINUTES
                yield from (start + time for time in self.times if low <= start + time < high)

    def matches(self, ordinal: int) -> bool:
        """Whether a day does."""
        day = date.fromordinal(ordinal)
        if "*" not in self.months and day.month not in self.months:
            return False
        by_month = "*" in self.month_days or day.day in self.month_days or ("l" in self.month_days and _is_last(day, 1))
        by_week = self._matches_week(day)
        return by_month or by_week if self.is_either else by_month and by_week

    def _matches_week(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if self.nth_weekdays:
            is_last = (weekday, _LAST_WEEKDAY) in self.nth_weekdays and _is_last(day, 7)
            return is_last or (weekday, (day.day + 6) // 7) in self.nth_weekdays
        return "*" in self.weekdays or weekday in self.weekdays

    def _before(self, minute: int) -> int:
        day, time = divmod(minute, _DAY_MINUTES)
        return bisect_left(self.times, time) if self.matches(day) else 0


def _is_last(day: date, days: int) -> bool:
    return (day + days * _DAY).month != day.month


def _pattern(expression: str) -> Pattern:
    """The pattern of a canonical expression. Raises ConfigurationError if croniter refuses it, or if it never comes."""
    # Here, since it takes a tenth of the time to import pgqueue, and most programs have no cron expression.
    from croniter import croniter  # type: ignore[import-untyped]  # it ships no types

    try:
        (minutes, hours, month_days, months, weekdays), nth = croniter.expand(expression)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"cron {expression!r} is not valid: {_reason(error)}") from error
    stars = [expression.split()[index][0] in "*?" for index in (2, 4)]
    if nth and ("*" not in month_days or set(weekdays) != set(nth)):
        raise ConfigurationError(f"cron {expression!r} mixes '#' or 'L' weekdays with other days: keep one, such as 'MON#1'")
    pattern = Pattern(
        times=tuple(hour * 60 + minute for hour in _values(hours, 24) for minute in _values(minutes, 60)),
        is_elapsed="*" in hours,
        month_days=frozenset(month_days),
        months=frozenset(months),
        weekdays=frozenset(weekdays),
        nth_weekdays=frozenset((day, _LAST_WEEKDAY if n == "l" else n) for day, numbers in nth.items() for n in numbers),
        is_either=not any(stars),
    )
    start = date(2000, 1, 1).toordinal()
    if not any(map(pattern.matches, range(start, start + HORIZON.days))):
        raise ConfigurationError(f"cron {expression!r} never comes: its months have no such day; L is the last day of a month")
    return pattern


def _values(field_values: list[int | str], size: int) -> list[int]:
    return list(range(size)) if "*" in field_values else [value for value in field_values if isinstance(value, int)]


def _canonical(expression: object) -> str:
    """One spelling for one definition: an alias written out, single spaces, upper case. Raises ConfigurationError."""
    if not isinstance(expression, str) or len(expression) > LONGEST_EXPRESSION or not expression.isascii():
        shown = str(expression)[:80]
        raise ConfigurationError(f"cron takes up to {LONGEST_EXPRESSION} ASCII characters, such as '0 3 * * *', not {shown!r}")
    text = expression.strip().lower()
    if text.startswith("@") and text not in _ALIASES:
        raise ConfigurationError(f"cron {expression!r} is not known: the names are {', '.join(_ALIASES)}")
    fields = _ALIASES.get(text, text).split()
    if len(fields) != len(_FIELDS):
        raise ConfigurationError(
            f"cron {expression!r} has {len(fields)} fields instead of five ({', '.join(_FIELDS)}); "
            "for seconds use frequency=timedelta(seconds=5)"
        )
    for name, text in zip(_FIELDS, fields, strict=True):
        _check_field(expression, name, text)
    return " ".join(fields).upper()


def _check_field(expression: str, name: str, text: str) -> None:
    """Refuse what croniter reads, but not as it is meant: random fields, `9-9` as the whole field, `15W` as the 15th."""
    if re.match(r"[hr]([(/]|$)", text):
        raise ConfigurationError(f"cron {expression!r}: {text.upper()!r} ({name}) is drawn by lot; write the value that you want")
    if name == "day of month" and "w" in text:
        raise ConfigurationError(f"cron {expression!r}: {text.upper()!r} ({name}): nearest weekdays (W) are not supported")
    for part in text.split(","):
        _check_range(expression, name, part)


def _check_range(expression: str, name: str, part: str) -> None:
    match = _RANGE.fullmatch(part)
    if match is None:
        return
    low, high = (str(_NAMES.get(end, end)) for end in match.groups()[:2])
    if not (low + high).isdigit():
        return  # croniter refuses it
    first, last = 0 if name == "day of week" and int(low) == 7 else int(low), int(high)
    said = f"cron {expression!r}: {part.upper()!r} ({name})"
    if int(low) == last or first == last:
        raise ConfigurationError(f"{said} is a range of one: write {match[1].upper()}, or * for all")
    if first > last and match[3]:
        raise ConfigurationError(f"{said} steps across the end of the field: write the values as a list")


def _reason(error: Exception) -> str:
    """The last line: for some texts croniter's message is a whole traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _check_policy(missed: str, bound: object) -> None:
    if missed not in get_args(Missed):
        raise ConfigurationError(f"missed is one of {', '.join(get_args(Missed))}, such as missed='last', not {missed!r}")
    if isinstance(bound, bool) or not isinstance(bound, int) or not 1 <= bound <= MOST_CAUGHT_UP:
        raise ConfigurationError(f"bound is a whole number from 1 to {MOST_CAUGHT_UP}, such as bound=100, not {bound!r}")


def _utc(instant: datetime, name: str) -> datetime:
    if instant.utcoffset() is None:
        raise ConfigurationError(f"{name} needs a timezone, as datetime.now(UTC) has, and {instant!r} has none")
    if instant.year not in _YEARS:
        raise ConfigurationError(f"{name} is from the years {_YEARS.start} to {_YEARS.stop - 1}, and {instant} is not")
    return instant.astimezone(UTC)


def _minute(instant: datetime, offset: timedelta) -> int:
    """The first wall-clock minute at or after an instant, where the offset holds."""
    wall = instant + offset
    rest = 1 if wall.second or wall.microsecond else 0
    return wall.toordinal() * _DAY_MINUTES + wall.hour * 60 + wall.minute + rest


def _instant(minute: int, offset: timedelta) -> datetime:
    day, time = divmod(minute, _DAY_MINUTES)
    return datetime.fromordinal(day).replace(tzinfo=UTC) + timedelta(minutes=time) - offset
