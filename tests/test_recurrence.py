"""When recurring tasks are due: frequencies, cron in timezones, missed slots.

The oracle for daylight saving walks minute by minute through every change of every timezone from 2020 to 2030 and knows
nothing of spans or patterns: it looks at what the local clock shows.
"""

from __future__ import annotations

import pickle
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

import pytest
from croniter import CroniterBadDateError, croniter  # type: ignore[import-untyped]  # it ships no types
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pgqueue.errors import ConfigurationError
from pgqueue.recurrence import HORIZON, MOST_CAUGHT_UP, SKIP_GRACE, Due, Recurrence

starts = st.timedeltas(timedelta(0), timedelta(days=3650)).map(lambda age: datetime(2020, 1, 1, tzinfo=UTC) + age)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 1, 15, 12, 0, 30, tzinfo=UTC)
BERLIN = "Europe/Berlin"


def walk(recurrence: Recurrence, start: datetime, count: int) -> list[datetime]:
    """The next slots after an instant."""

    def slots() -> Iterator[datetime]:
        slot = start
        while True:
            slot = recurrence.after(slot)
            yield slot

    return list(islice(slots(), count))


def local(recurrence: Recurrence, zone: str, start: datetime, count: int) -> list[str]:
    return [slot.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes") for slot in walk(recurrence, start, count)]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]  # mypy takes the parts for the tzinfo


# --- frequency ---------------------------------------------------------------------------------------------------


def test_a_frequency_fires_at_once_when_first_registered():
    assert Recurrence.every(timedelta(minutes=5)).first(NOW) == NOW


@pytest.mark.parametrize("frequency", [timedelta(minutes=5), 300, 300.0, "5m", "300s"])
def test_a_frequency_is_a_timedelta_seconds_or_text(frequency):
    assert Recurrence.every(frequency) == Recurrence.every(timedelta(minutes=5))


def test_a_frequency_keeps_to_the_grid_of_its_first_slot_however_late_it_is_looked_at():
    due = Recurrence.every(10).catch_up(next_run_at=utc(2026, 1, 1), now=utc(2026, 1, 1, 0, 0, 47))
    assert due.next_run_at == utc(2026, 1, 1, 0, 0, 50)


def test_a_frequency_of_a_second_is_fine():
    assert Recurrence.every(1).after(NOW) == NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    "frequency", [0, -1, "0", timedelta(seconds=-5), 0.01, float("nan"), float("inf"), "5 minutes", True, "11000d"]
)
def test_a_frequency_that_cannot_be_kept_is_refused(frequency):
    with pytest.raises(ConfigurationError):
        Recurrence.every(frequency)


# --- what cron accepts -------------------------------------------------------------------------------------------


def test_cron_comes_at_its_next_instant_strictly_after():
    nightly = Recurrence.from_cron("0 3 * * *")
    assert nightly.first(utc(2026, 1, 1, 2, 59)) == utc(2026, 1, 1, 3)
    assert nightly.first(utc(2026, 1, 1, 3)) == utc(2026, 1, 2, 3)
    assert nightly.after(utc(2026, 1, 1, 2, 59, 59)) == utc(2026, 1, 1, 3)
    assert nightly.after(utc(2026, 1, 1, 3) - timedelta(microseconds=1)) == utc(2026, 1, 1, 3)


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 0 29 2 *", utc(2026, 1, 1), utc(2028, 2, 29)),
        ("0 0 29 2 *", utc(2096, 3, 1), utc(2104, 2, 29)),
        ("0 0 29 2 */7", utc(2072, 3, 1), utc(2088, 2, 29)),
        ("0 0 * 2 5#5", utc(2080, 3, 1), utc(2092, 2, 29)),
        ("0 9 * * MON-FRI", utc(2026, 1, 2, 10), utc(2026, 1, 5, 9)),
        ("0 9 * JAN sun", utc(2026, 1, 31), utc(2027, 1, 3, 9)),
        ("0 0 L * *", utc(2026, 2, 1), utc(2026, 2, 28)),
        ("0 0 15,L * *", utc(2026, 2, 15), utc(2026, 2, 28)),
        ("0 0 * * 5#2", utc(2026, 1, 1), utc(2026, 1, 9)),
        ("0 0 * * L5", utc(2026, 1, 1), utc(2026, 1, 30)),
        ("0 0 ? * 7", utc(2026, 1, 1), utc(2026, 1, 4)),
        ("0 22-2 * * *", utc(2026, 1, 1, 23), utc(2026, 1, 2, 0)),
        ("5/20 * * * *", utc(2026, 1, 1, 0, 26), utc(2026, 1, 1, 0, 45)),
        ("@hourly", utc(2026, 1, 1, 0, 1), utc(2026, 1, 1, 1)),
        (" @Daily ", utc(2026, 1, 1, 1), utc(2026, 1, 2)),
        ("@weekly", utc(2026, 1, 1), utc(2026, 1, 4)),
        ("@monthly", utc(2026, 1, 1), utc(2026, 2, 1)),
        ("@yearly", utc(2026, 1, 1), utc(2027, 1, 1)),
    ],
)
def test_cron_finds_its_next_slot(expression, after, expected):
    assert Recurrence.from_cron(expression).after(after) == expected


def test_day_of_month_and_day_of_week_are_alternatives_unless_one_begins_with_a_star():
    either = Recurrence.from_cron("0 0 13 * FRI")
    assert walk(either, utc(2026, 1, 1), 4) == [utc(2026, 1, 2), utc(2026, 1, 9), utc(2026, 1, 13), utc(2026, 1, 16)]
    both = Recurrence.from_cron("0 0 */2 * FRI")
    assert walk(both, utc(2026, 1, 1), 3) == [utc(2026, 1, 9), utc(2026, 1, 23), utc(2026, 2, 13)]


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("0 0 0 * * *", "for seconds use frequency"),
        ("0 0 0 * * * 2026", "7 fields"),
        ("@reboot", "not known"),
        ("@every 5m", "not known"),
        ("61 * * * *", "not valid"),
        ("* * * 13 *", "not valid"),
        ("* * 0 * *", "not valid"),
        ("*/0 * * * *", "not valid"),
        ("-5 * * * *", "not valid"),
        ("1,,2 * * * *", "not valid"),
        ("x * * * *", "not valid"),
        ("* * * MON *", "not valid"),
        ("0 0 * * 1#6", "not valid"),
        ("0 0 * * 1#2,3", "not valid"),
        ("0 0 13 * FRI#2", "mixes"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("R * * * *", "drawn by lot"),
        ("H/5 * * * *", "drawn by lot"),
        ("* h(0-3) * * *", "drawn by lot"),
        ("0 0 15W * *", "nearest weekdays"),
        ("0 9-9 * * *", "range of one"),
        ("0 09-9 * * *", "range of one"),
        ("0 0 * JAN-JAN *", "range of one"),
        ("0 0 * * 7-7", "range of one"),
        ("0 22-2/3 * * *", "steps across"),
        ("٣ * * * *", "ASCII"),
        ("1," * 300 + "1 * * * *", "500"),
        (None, "ASCII"),
    ],
)
def test_an_expression_that_is_wrong_or_misleading_is_refused_with_the_reason(expression, reason):
    with pytest.raises(ConfigurationError, match=reason):
        Recurrence.from_cron(expression)


@pytest.mark.parametrize(
    "timezone", ["Nope/Nowhere", "", "Europe", "../UTC", "/etc/passwd", "Eu\0rope", "\ud800", "x" * 9999, None, 5]
)
def test_an_unknown_timezone_is_refused(timezone):
    with pytest.raises(ConfigurationError, match="timezone"):
        Recurrence.from_cron("0 3 * * *", timezone)


@given(st.text(alphabet="0123456789*/-,#?@LWHRlwhrJANjanMONsun ", max_size=30), st.sampled_from(["", " * *", " * * * *"]))
@settings(max_examples=500, deadline=None)
def test_any_text_is_an_expression_that_comes_or_a_configuration_error(text, rest):
    try:
        recurrence = Recurrence.from_cron(text + rest)
    except ConfigurationError:
        return
    assert recurrence.first(NOW) > NOW


field_parts = {
    "minute": ["*", "*/7", "0", "3-50/9", "59", "1,2"],
    "hour": ["*", "*/5", "0", "23", "20-3"],
    "day": ["*", "*/3", "1-31", "31", "L", "29,30", "1-7/2", "15,L"],
    "month": ["*", "2", "FEB,JUN", "*/5", "NOV-FEB"],
    "weekday": ["*", "0", "7", "MON-FRI", "*/2", "SAT-MON", "1-7", "?"],
}


@given(st.tuples(*map(st.sampled_from, field_parts.values())), starts)
@settings(max_examples=150, deadline=None)
def test_days_and_times_are_those_of_croniter_with_the_rule_of_vixie_cron(parts, start):
    expression = " ".join(parts)
    theirs = croniter(expression, start.replace(tzinfo=None), implement_cron_bug=True, ret_type=datetime)
    try:
        recurrence = Recurrence.from_cron(expression)
    except ConfigurationError:
        with pytest.raises(CroniterBadDateError):
            theirs.get_next()
        return
    ours = walk(recurrence, start, 20)
    assert [slot.replace(tzinfo=None) for slot in ours] == [theirs.get_next() for _ in range(20)]


@pytest.mark.parametrize("method", [Recurrence.first, Recurrence.after])
@pytest.mark.parametrize("recurrence", [Recurrence.every(5), Recurrence.from_cron("* * * * *")])
def test_naive_instants_and_those_of_no_calendar_are_refused(method, recurrence):
    for instant in (datetime(2026, 1, 1), datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):  # noqa: DTZ001  # the point
        with pytest.raises(ConfigurationError):
            method(recurrence, instant)
        with pytest.raises(ConfigurationError):
            recurrence.catch_up(next_run_at=instant, now=NOW)
        with pytest.raises(ConfigurationError):
            recurrence.catch_up(next_run_at=NOW, now=instant)


def test_instants_in_any_timezone_go_in_and_utc_comes_out():
    slot = Recurrence.from_cron("0 3 * * *", BERLIN).after(datetime(2026, 7, 1, 2, 30, tzinfo=ZoneInfo(BERLIN)))
    assert slot == utc(2026, 7, 1, 1)
    assert slot.tzinfo is UTC


# --- daylight saving ---------------------------------------------------------------------------------------------


def test_a_skipped_local_time_fires_once_at_the_first_instant_after_the_gap():
    nightly = Recurrence.from_cron("30 2 * * *", BERLIN)
    assert local(nightly, BERLIN, utc(2026, 3, 28, 12), 2) == ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]


def test_several_skipped_local_times_fire_once_together():
    often = Recurrence.from_cron("*/10 2-3 * * *", BERLIN)
    assert local(often, BERLIN, utc(2026, 3, 28, 12), 2) == ["2026-03-29T03:00+02:00", "2026-03-29T03:10+02:00"]


def test_a_repeated_local_time_fires_once_the_first_time():
    nightly = Recurrence.from_cron("30 2 * * *", BERLIN)
    assert local(nightly, BERLIN, utc(2026, 10, 24, 12), 2) == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]


def test_from_within_a_repeated_hour_the_next_slot_is_after_it():
    often = Recurrence.from_cron("*/20 2,3 * * *", BERLIN)
    assert local(often, BERLIN, utc(2026, 10, 25, 1, 10), 1) == ["2026-10-25T03:00+01:00"]


def test_an_expression_for_every_hour_follows_elapsed_time_through_both_changes():
    quarterly = Recurrence.from_cron("*/15 * * * *", BERLIN)
    for start in (utc(2026, 3, 28, 20), utc(2026, 10, 24, 20)):
        assert walk(quarterly, start, 50) == [start + number * 15 * MINUTE for number in range(1, 51)]


def test_a_change_of_half_an_hour_moves_a_slot_by_what_is_missing():
    zone = "Australia/Lord_Howe"
    assert local(Recurrence.from_cron("15 2 * * *", zone), zone, utc(2026, 10, 3), 2) == [
        "2026-10-04T02:30+11:00",
        "2026-10-05T02:15+11:00",
    ]


def test_a_day_that_a_zone_leaves_out_fires_as_the_next_one_begins():
    zone = "Pacific/Apia"
    slots = local(Recurrence.from_cron("0 12 * * *", zone), zone, utc(2011, 12, 29), 4)
    assert slots == ["2011-12-29T12:00-10:00", "2011-12-31T00:00+14:00", "2011-12-31T12:00+14:00", "2012-01-01T12:00+14:00"]


Offset = timedelta | None

CASES: dict[str, Callable[[datetime], bool]] = {
    "*/5 * * * *": lambda wall: wall.minute % 5 == 0,
    "*/15 * * * *": lambda wall: wall.minute % 15 == 0,
    "0 0-23 * * *": lambda wall: wall.minute == 0,
    "*/20 * * * SUN": lambda wall: wall.minute % 20 == 0 and wall.isoweekday() == 7,
    "30 2 * * *": lambda wall: (wall.hour, wall.minute) == (2, 30),
    "0 0 * * *": lambda wall: (wall.hour, wall.minute) == (0, 0),
    "*/20 0-4 * * *": lambda wall: wall.hour <= 4 and wall.minute % 20 == 0,
    "15,45 1,3,22,23 * * *": lambda wall: wall.hour in (1, 3, 22, 23) and wall.minute in (15, 45),
    "30 */2 * * *": lambda wall: wall.hour % 2 == 0 and wall.minute == 30,
    "*/10 2-3 L * SUN": lambda wall: (
        wall.minute % 10 == 0 and wall.hour in (2, 3) and ((wall + DAY).day == 1 or wall.isoweekday() == 7)
    ),
}
ELAPSED = list(CASES)[:4]


def changes(zone: ZoneInfo) -> Iterator[tuple[datetime, Offset, Offset]]:
    """When a zone's offset changes from 2020 to 2030, to the minute, with the offset before and after."""
    day, end = utc(2020, 1, 1), utc(2031, 1, 1)
    before = offset_at(zone, day)
    while day < end:
        after = offset_at(zone, day + DAY)
        if after != before:
            minute = bisect_left(range(1440), True, key=partial(has_changed, zone, day))
            yield day + minute * MINUTE, before, after
        day, before = day + DAY, after


def has_changed(zone: ZoneInfo, day: datetime, minute: int) -> bool:
    return offset_at(zone, day + minute * MINUTE) != offset_at(zone, day)


def offset_at(zone: ZoneInfo, instant: datetime) -> Offset:
    return instant.astimezone(zone).utcoffset()


@cache
def distinct_changes() -> dict[tuple[datetime, Offset, Offset], ZoneInfo]:
    """One zone for each change: zones that go from one offset to another at the same instant share their clocks around it."""
    zones = map(ZoneInfo, sorted(available_timezones()))
    return {change: zone for zone in zones for change in changes(zone)}


def expected_slots(expression: str, clock: list[tuple[datetime, datetime]]) -> list[datetime]:
    """Minute by minute: what a person at the local clock would see. A skipped minute counts for the one that follows the gap."""
    names = CASES[expression]
    if expression in ELAPSED:
        return [instant for instant, wall in clock if names(wall)]
    slots = []
    shown = clock[0][1] - MINUTE
    for instant, wall in clock:
        if wall <= shown:
            continue  # it was shown before
        unseen = (shown + number * MINUTE for number in range(1, (wall - shown) // MINUTE + 1))
        if any(map(names, unseen)):
            slots.append(instant)
        shown = wall
    return slots


def slots_between(recurrence: Recurrence, start: datetime, end: datetime) -> list[datetime]:
    """All slots in [start, end]."""
    first = recurrence.after(start - MINUTE)
    return list(recurrence.catch_up(next_run_at=first, now=end, missed="all", bound=MOST_CAUGHT_UP).fire)


def test_no_slot_is_lost_or_doubled_at_any_change_of_any_timezone_from_2020_to_2030():
    recurrences: dict[tuple[str, str], Recurrence] = {}
    found = distinct_changes()
    assert len(found) > 300
    for (change, _, _), zone in found.items():
        start, end = change - 4 * HOUR, change + 4 * HOUR
        instants = [start + number * MINUTE for number in range(8 * 60 + 1)]
        clock = [(instant, instant.astimezone(zone).replace(tzinfo=None)) for instant in instants]
        for expression in CASES:
            key = (expression, zone.key)
            recurrence = recurrences.setdefault(key, recurrences.get(key) or Recurrence.from_cron(*key))
            assert slots_between(recurrence, start, end) == expected_slots(expression, clock), (key, change)


# --- missed slots ------------------------------------------------------------------------------------------------

ZONES = [
    BERLIN,
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Antarctica/Troll",
    "Asia/Beirut",
    "America/Nuuk",
    "UTC",
]
frequencies = st.timedeltas(timedelta(seconds=20), 3 * DAY).map(Recurrence.every)
crons = st.builds(Recurrence.from_cron, st.sampled_from(sorted(CASES)), st.sampled_from(ZONES))
RULES = [
    "FREQ=DAILY;BYHOUR=2,3;BYMINUTE=0,30",
    "FREQ=WEEKLY;BYDAY=SA,SU;BYHOUR=0,2,23;BYSECOND=7",
    "FREQ=MONTHLY;BYDAY=-1SU;BYHOUR=2;BYMINUTE=30",
    "DTSTART:20190105T013000 RRULE:FREQ=WEEKLY;INTERVAL=2",
    "FREQ=HOURLY;BYHOUR=1,2,3;BYMINUTE=15,45",
    "DTSTART:20190105T013000 RRULE:FREQ=HOURLY;INTERVAL=5",
    "FREQ=MINUTELY;INTERVAL=15;BYDAY=SU",
    "FREQ=HOURLY;BYMINUTE=0,10;BYMONTHDAY=1,-1",
]
rules = st.builds(Recurrence.from_rrule, st.sampled_from(RULES), st.sampled_from(ZONES))


@given(
    recurrence=frequencies | crons | rules,
    start=starts,
    span=st.timedeltas(timedelta(0), 12 * HOUR) | st.timedeltas(timedelta(0), 5 * MINUTE),
    missed=st.sampled_from(["last", "skip", "all"]),
    bound=st.integers(1, 50),
)
@settings(deadline=None)
def test_fired_and_skipped_are_together_exactly_the_slots_that_were_due(recurrence, start, span, missed, bound):
    now = start + span
    slots = [start]
    while slots[-1] <= now:
        slots.append(recurrence.after(slots[-1]))
    next_run_at = slots.pop()

    due = recurrence.catch_up(next_run_at=start, now=now, missed=missed, bound=bound)

    is_late = missed == "skip" and now - slots[-1] > SKIP_GRACE
    fired = 0 if is_late else min(bound, len(slots)) if missed == "all" else 1
    skipped = slots[: len(slots) - fired]
    assert due == Due(
        fire=tuple(slots[len(slots) - fired :]),
        skipped_count=len(skipped),
        skipped_first_at=skipped[0] if skipped else None,
        skipped_last_at=skipped[-1] if skipped else None,
        next_run_at=next_run_at,
    )


@given(frequencies | crons | rules, st.timedeltas(timedelta(microseconds=1), DAY))
@settings(deadline=None)
def test_nothing_fires_before_its_time(recurrence, early):
    assert recurrence.catch_up(next_run_at=NOW + early, now=NOW) == Due((), 0, None, None, NOW + early)


def test_a_slot_fires_at_its_very_instant():
    assert Recurrence.every(5).catch_up(next_run_at=NOW, now=NOW).fire == (NOW,)


@pytest.mark.parametrize(
    ("age", "fires"), [(timedelta(0), True), (SKIP_GRACE, True), (SKIP_GRACE + timedelta(microseconds=1), False)]
)
def test_with_skip_the_newest_slot_fires_within_the_grace_only(age, fires):
    slot = utc(2026, 1, 1, 3)
    due = Recurrence.from_cron("0 3 * * *").catch_up(next_run_at=slot, now=slot + age, missed="skip")
    assert due.fire == ((slot,) if fires else ())
    assert due.skipped_count == (not fires)


def test_a_century_of_missed_seconds_is_counted_exactly():
    start, now = utc(1925, 1, 1), utc(2025, 1, 1)
    due = Recurrence.every(1).catch_up(next_run_at=start, now=now)
    assert due.fire == (now,)
    assert due.skipped_count == (now - start) // timedelta(seconds=1)


@pytest.mark.parametrize("zone", ZONES)
def test_ten_years_of_missed_minutes_are_counted_exactly(zone):
    start, now = utc(2016, 1, 1), utc(2026, 1, 1)
    due = Recurrence.from_cron("* * * * *", zone).catch_up(next_run_at=start, now=now)
    assert due.fire == (now,)
    assert due.skipped_count == (now - start) // MINUTE
    assert due.skipped_last_at == now - MINUTE


over_years = st.builds(Recurrence.from_cron, st.sampled_from(sorted(set(CASES) - set(ELAPSED))), st.sampled_from(ZONES)) | rules


@given(over_years, st.integers(2020, 2028))
@settings(max_examples=40, deadline=None)
def test_slots_missed_over_years_are_as_many_as_one_by_one(recurrence, year):
    first, now = recurrence.after(utc(year, 1, 1)), utc(year + 2, 1, 1)
    whole = recurrence.catch_up(next_run_at=first, now=now)
    assume(whole.skipped_count < MOST_CAUGHT_UP)
    every = recurrence.catch_up(next_run_at=first, now=now, missed="all", bound=MOST_CAUGHT_UP)
    assert len(every.fire) == len(set(every.fire)) == whole.skipped_count + 1
    assert list(every.fire) == sorted(every.fire)


def test_cron_slots_beyond_the_horizon_are_not_counted():
    yearly = Recurrence.from_cron("@yearly")
    due = yearly.catch_up(next_run_at=utc(1901, 1, 1), now=NOW, missed="all", bound=1000)
    assert due.fire[0] == utc(1901, 1, 1)
    assert due.fire[1] > NOW - HORIZON
    assert due.next_run_at == utc(2027, 1, 1)


@pytest.mark.parametrize(
    "wrong", [{"missed": "first"}, {"missed": None}, {"bound": 0}, {"bound": True}, {"bound": 1.5}, {"bound": MOST_CAUGHT_UP + 1}]
)
def test_a_wrong_policy_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Recurrence.every(5).catch_up(next_run_at=NOW, now=NOW, **wrong)


# --- as a value --------------------------------------------------------------------------------------------------


def test_a_recurrence_is_described_for_people():
    assert Recurrence.every(5).describe() == "every 5 s"
    assert Recurrence.every(5400).describe() == "every 1 h 30 m"
    assert Recurrence.from_cron("0 3  * * *", BERLIN).describe() == "cron 0 3 * * * (Europe/Berlin)"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Recurrence.every(60), Recurrence.every("1m")),
        (Recurrence.from_cron("0 0 * * *"), Recurrence.from_cron("@daily")),
        (Recurrence.from_cron("0 9 * jan mon"), Recurrence.from_cron("  0 9 * JAN  MON ")),
    ],
)
def test_equal_definitions_have_equal_fingerprints(one, other):
    assert one == other
    assert hash(one) == hash(other)
    assert one.fingerprint() == other.fingerprint()


def test_different_definitions_have_different_fingerprints():
    definitions = [
        Recurrence.every(5),
        Recurrence.every(5.000001),
        Recurrence.from_cron("0 3 * * *"),
        Recurrence.from_cron("0 4 * * *"),
        Recurrence.from_cron("0 3 * * *", BERLIN),
    ]
    assert len({definition.fingerprint() for definition in definitions}) == len(set(definitions)) == len(definitions)


@pytest.mark.parametrize("recurrence", [Recurrence.every(5), Recurrence.from_cron("0 3 * * *", BERLIN)])
def test_a_recurrence_survives_pickling(recurrence):
    copy = pickle.loads(pickle.dumps(recurrence))  # noqa: S301  # our own bytes
    assert copy == recurrence
    assert copy.after(NOW) == recurrence.after(NOW)
