"""RRULE: what is accepted and what it means, by dateutil where no clock is changed and by cron where one is."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr  # type: ignore[import-untyped]  # it ships no types
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pgqueue.errors import ConfigurationError
from pgqueue.recurrence import HORIZON, Recurrence
from tests.test_recurrence import BERLIN, DAY, HOUR, NOW, distinct_changes, local, slots_between, utc


def walk_to_end(recurrence: Recurrence, start: datetime) -> list[datetime]:
    slots = []
    slot = recurrence.after(start)
    while slot is not None:
        slots.append(slot)
        slot = recurrence.after(slot)
    return slots


# ── what it means ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=DAILY", ["2026-01-16T00:00+01:00", "2026-01-17T00:00+01:00"]),
        ("FREQ=WEEKLY", ["2026-01-19T00:00+01:00", "2026-01-26T00:00+01:00"]),
        ("FREQ=MONTHLY", ["2026-02-01T00:00+01:00", "2026-03-01T00:00+01:00"]),
        ("FREQ=YEARLY", ["2027-01-01T00:00+01:00", "2028-01-01T00:00+01:00"]),
        ("freq=weekly;byday=mo,fr;byhour=9;byminute=30", ["2026-01-16T09:30+01:00", "2026-01-19T09:30+01:00"]),
        ("FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17", ["2026-01-30T17:00+01:00", "2026-02-27T17:00+01:00"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", ["2026-01-30T00:00+01:00", "2026-02-27T00:00+01:00"]),
        ("FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO", ["2026-05-11T00:00+02:00", "2027-05-17T00:00+02:00"]),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", ["2028-02-29T00:00+01:00", "2032-02-29T00:00+01:00"]),
        ("FREQ=MINUTELY;INTERVAL=20", ["2026-01-15T13:20+01:00", "2026-01-15T13:40+01:00"]),
        ("FREQ=MINUTELY;INTERVAL=20;BYMINUTE=0,40", ["2026-01-15T13:40+01:00", "2026-01-15T14:00+01:00"]),
        ("FREQ=HOURLY;INTERVAL=6;BYHOUR=0,6,7", ["2026-01-16T00:00+01:00", "2026-01-16T06:00+01:00"]),
        ("RRULE:FREQ=DAILY;", ["2026-01-16T00:00+01:00", "2026-01-17T00:00+01:00"]),
        ("DTSTART:20260105T090000\nRRULE:FREQ=WEEKLY;INTERVAL=2", ["2026-01-19T09:00+01:00", "2026-02-02T09:00+01:00"]),
        ("DTSTART;TZID=Europe/Berlin:20260105T090000 FREQ=WEEKLY", ["2026-01-19T09:00+01:00", "2026-01-26T09:00+01:00"]),
        ("DTSTART:20260105T083000Z FREQ=WEEKLY", ["2026-01-19T09:30+01:00", "2026-01-26T09:30+01:00"]),
        ("DTSTART:20260201 FREQ=MONTHLY;INTERVAL=2;BYMONTHDAY=15", ["2026-02-15T00:00+01:00", "2026-04-15T00:00+02:00"]),
    ],
)
def test_a_rule_is_due_when_it_says_and_what_it_leaves_open_is_as_in_its_start(rule, expected):
    assert local(Recurrence.from_rrule(rule, BERLIN), BERLIN, NOW, 2) == expected


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("COUNT=3", "2026-01-09T09:00+01:00"),
        ("UNTIL=20260109", "2026-01-09T09:00+01:00"),
        ("UNTIL=20260109T090000", "2026-01-09T09:00+01:00"),
        ("UNTIL=20260109T080000Z", "2026-01-09T09:00+01:00"),
        ("UNTIL=20260109T075959Z", "2026-01-07T09:00+01:00"),
    ],
)
def test_a_rule_ends_after_its_count_or_its_until(end, last):
    recurrence = Recurrence.from_rrule(f"DTSTART:20260105T090000 RRULE:FREQ=WEEKLY;BYDAY=MO,WE,FR;{end}", BERLIN)
    slots = walk_to_end(recurrence, utc(2026, 1, 1))
    assert slots[-1].astimezone(ZoneInfo(BERLIN)).isoformat(timespec="minutes") == last
    assert recurrence.first(slots[-1]) is None
    due = recurrence.catch_up(next_run_at=slots[0], now=NOW, missed="all")
    assert (due.fire, due.skipped_count, due.next_run_at) == (tuple(slots), 0, None)


def test_a_count_of_hours_follows_elapsed_time():
    recurrence = Recurrence.from_rrule("DTSTART:20260329T000000 RRULE:FREQ=HOURLY;INTERVAL=5;COUNT=4", BERLIN)
    assert walk_to_end(recurrence, utc(2026, 1, 1)) == [utc(2026, 3, 28, 23) + number * 5 * HOUR for number in range(4)]


def test_a_rule_written_back_is_the_same_rule():
    for rule in ("FREQ=WEEKLY;BYDAY=FR,MO,MO;WKST=SU", "DTSTART;TZID=Europe/Berlin:20260105 RRULE:FREQ=DAILY;UNTIL=20270101"):
        one = Recurrence.from_rrule(rule)
        again = Recurrence.from_rrule(one.rule.text, one.rule.timezone)
        assert (again, again.fingerprint()) == (one, one.fingerprint())
    assert Recurrence.from_rrule("byhour=9;FREQ=daily", BERLIN).describe() == "rrule FREQ=DAILY;BYHOUR=9 (Europe/Berlin)"


days = {
    "BYMONTH": st.lists(st.integers(1, 12), min_size=1, max_size=3),
    "BYMONTHDAY": st.lists(st.integers(-31, 31).filter(bool), min_size=1, max_size=3),
    "BYDAY": st.lists(st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"]), min_size=1, max_size=3),
}
positions = st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=2)
times = {
    "BYHOUR": st.lists(st.integers(0, 23), min_size=1, max_size=3),
    "BYMINUTE": st.lists(st.integers(0, 59), min_size=1, max_size=3),
    "BYSECOND": st.lists(st.integers(0, 59), min_size=1, max_size=2),
}


@st.composite
def rules(draw: st.DrawFn) -> tuple[str, datetime]:
    """Most of what RFC 5545 allows beside each other, and an instant within reach of dateutil, which walks there."""
    frequency = draw(st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY"]))
    said: dict[str, object] = {"FREQ": frequency, "INTERVAL": draw(st.sampled_from([1, 1, 2, 3, 4, 7, 30]))}
    for name, values in {**days, **times}.items():
        if draw(st.booleans()):
            said[name] = draw(values)
    if draw(st.booleans()):
        said["WKST"] = draw(st.sampled_from(["MO", "SU", "WE"]))
    if frequency in ("MONTHLY", "YEARLY") and "BYDAY" in said and draw(st.booleans()):
        said["BYDAY"] = [f"{draw(st.sampled_from([1, 2, -1]))}{day}" for day in said["BYDAY"]]  # type: ignore[attr-defined]
    elif (
        frequency in ("MONTHLY", "WEEKLY", "YEARLY")
        and "BYDAY" in said
        and not said.keys() & times.keys()
        and draw(st.booleans())
    ):
        said["BYSETPOS"] = draw(positions)
    text = ";".join(f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}" for name, value in said.items())
    start = draw(st.datetimes(datetime(2015, 1, 1), datetime(2027, 1, 1))).replace(microsecond=0)  # noqa: DTZ001  # wall-clock time
    reach = draw(st.integers(-10, 10 if frequency == "MINUTELY" else 500 if frequency == "HOURLY" else 4000))
    return f"DTSTART:{start:%Y%m%dT%H%M%S} RRULE:{text}", start.replace(tzinfo=UTC) + reach * DAY


@given(rules())
@settings(max_examples=80, deadline=None)
def test_where_no_clock_is_changed_a_rule_means_what_dateutil_says(rule_and_start):
    rule, start = rule_and_start
    try:
        recurrence = Recurrence.from_rrule(rule)
    except ConfigurationError as error:
        refusal = str(error)
    else:
        refusal = None
    assume(refusal is None or not any(reason in refusal for reason in ("never comes", "does not divide", "does not belong to")))
    assert refusal is None
    ours = walk_some(recurrence, start, 8)
    theirs = []
    for slot in rrulestr(rule.replace(" ", "\n")).xafter(start.replace(tzinfo=None), count=len(ours)):
        theirs.append(slot.replace(tzinfo=UTC))
    assert ours == theirs
    assume(len(ours) > 2 and ours[-1] - ours[0] < HORIZON)
    whole = recurrence.catch_up(next_run_at=ours[0], now=ours[-1], missed="all", bound=len(ours))
    assert whole.fire == tuple(ours)


def walk_some(recurrence: Recurrence, start: datetime, count: int) -> list[datetime]:
    slots: list[datetime] = []
    while len(slots) < count:
        slot = recurrence.after(slots[-1] if slots else start)
        if slot is None:
            break
        slots.append(slot)
    return slots


# ── daylight saving ─────────────────────────────────────────────────────────────────────────────────────────────────────

SAME_AS_CRON = {
    "FREQ=DAILY;BYHOUR=2;BYMINUTE=30": "30 2 * * *",
    "FREQ=MINUTELY;INTERVAL=20;BYHOUR=0,1,2,3,4": "*/20 0-4 * * *",
    "FREQ=HOURLY;BYMINUTE=0,20,40;BYDAY=SU": "*/20 * * * SUN",
    "FREQ=MINUTELY;INTERVAL=15": "*/15 * * * *",
}


def test_at_any_change_of_any_timezone_from_2020_to_2030_a_rule_is_due_as_the_cron_expression_that_says_the_same():
    recurrences: dict[tuple[str, str], tuple[Recurrence, Recurrence]] = {}
    for (change, _, _), zone in distinct_changes().items():
        for rule, expression in SAME_AS_CRON.items():
            if (rule, zone.key) not in recurrences:
                pair = (Recurrence.from_rrule(rule, zone.key), Recurrence.from_cron(expression, zone.key))
                recurrences[(rule, zone.key)] = pair
            ours, theirs = (slots_between(one, change - 3 * HOUR, change + 3 * HOUR) for one in recurrences[(rule, zone.key)])
            assert ours == theirs, (rule, zone.key, change)


def test_hours_at_an_interval_are_so_far_apart_through_every_change():
    for zone in (BERLIN, "Australia/Lord_Howe", "America/New_York", "Africa/Casablanca"):
        five = Recurrence.from_rrule("DTSTART:20200101T003000 RRULE:FREQ=HOURLY;INTERVAL=5", zone)
        first = five.first(utc(2020, 1, 1))
        assert first is not None
        due = five.catch_up(next_run_at=first, now=first + 900 * DAY, missed="all", bound=4321)
        assert list(due.fire) == [first + number * 5 * HOUR for number in range(4321)]


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (None, "ASCII"),
        ("FREQ=DAILY;BYHOUR=٣", "ASCII"),
        ("FREQ=DAILY;" * 200, "1000"),
        ("", "holds 0 rules"),
        ("DTSTART:20260101", "holds 0 rules"),
        ("FREQ=DAILY FREQ=DAILY", "holds 2 rules"),
        ("FREQ=DAILY EXDATE:20260101", "'EXDATE'"),
        ("DTSTART:20260101 DTSTART:20260102 FREQ=DAILY", "'DTSTART'"),
        ("DTSTART:2026-01-01 FREQ=DAILY", "takes DTSTART as 20260105T090000"),
        ("DTSTART:20260230 FREQ=DAILY", "takes DTSTART as"),
        ("DTSTART:15000101 FREQ=DAILY", "1900 to 8999"),
        ("DTSTART;VALUE=DATE:20260101 FREQ=DAILY", "TZID=Europe/Berlin"),
        ("DTSTART;TZID=Europe/Berlin:20260101T000000Z FREQ=DAILY", "both Z and TZID"),
        ("DTSTART;TZID=Europe/Rome:20260101 FREQ=DAILY", "keep one of them"),
        ("daily", "NAME=VALUE"),
        ("FREQ", "NAME=VALUE"),
        ("FREQ=;BYHOUR=1", "NAME=VALUE"),
        ("BYHOUR=1", "takes FREQ="),
        ("FREQ=FORTNIGHTLY", "takes FREQ="),
        ("FREQ=SECONDLY", "use frequency="),
        ("FREQ=DAILY;BYEASTER=1", "'BYEASTER', which is not known"),
        ("FREQ=DAILY;BYHOUR=1;BYHOUR=2", "says BYHOUR twice"),
        ("FREQ=DAILY;BYHOUR=24", "takes BYHOUR= from 0 to 23"),
        ("FREQ=DAILY;BYHOUR=-1", "takes BYHOUR="),
        ("FREQ=DAILY;BYHOUR=1,", "takes BYHOUR="),
        ("FREQ=DAILY;BYHOUR=" + "9" * 500, "takes BYHOUR="),
        ("FREQ=DAILY;BYMONTH=0", "takes BYMONTH="),
        ("FREQ=MONTHLY;BYMONTHDAY=32", "takes BYMONTHDAY="),
        ("FREQ=WEEKLY;BYDAY=MONDAY", "takes BYDAY= of"),
        ("FREQ=MONTHLY;BYDAY=0MO", "takes BYDAY= of"),
        ("FREQ=MONTHLY;BYDAY=6MO", "above 5"),
        ("FREQ=WEEKLY;BYDAY=2MO", "belong to FREQ=MONTHLY and YEARLY"),
        ("FREQ=YEARLY;BYDAY=2MO;BYWEEKNO=3", "beside BYWEEKNO"),
        ("FREQ=YEARLY;BYWEEKNO=3", "without BYDAY"),
        ("FREQ=MONTHLY;BYWEEKNO=3;BYDAY=MO", "belongs to FREQ=YEARLY"),
        ("FREQ=WEEKLY;BYMONTHDAY=3", "BYMONTHDAY, which does not belong"),
        ("FREQ=DAILY;BYYEARDAY=3", "BYYEARDAY, which does not belong"),
        ("FREQ=DAILY;BYSETPOS=1", "BYSETPOS, which belongs to"),
        ("FREQ=WEEKLY;BYDAY=MO;BYSETPOS=8", "BYSETPOS up to 7"),
        ("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=1;BYHOUR=9,17", "several times a day"),
        ("FREQ=MONTHLY;BYSETPOS=1", "nothing else"),
        ("FREQ=HOURLY;INTERVAL=5;BYHOUR=9", "does not divide a day"),
        ("FREQ=MINUTELY;INTERVAL=7;BYMINUTE=7", "does not divide an hour"),
        ("FREQ=DAILY;WKST=XX", "takes WKST="),
        ("FREQ=DAILY;INTERVAL=0", "takes INTERVAL="),
        ("FREQ=DAILY;INTERVAL=1.5", "takes INTERVAL="),
        ("DTSTART:20260101 FREQ=YEARLY;INTERVAL=51", "takes INTERVAL= from 1 to 50"),
        ("FREQ=DAILY;COUNT=0", "takes COUNT="),
        ("FREQ=DAILY;COUNT=10001", "UNTIL= and max_runs="),
        ("FREQ=DAILY;UNTIL=tomorrow", "takes UNTIL as"),
        ("DTSTART:20260101 FREQ=DAILY;UNTIL=20260201;COUNT=3", "both COUNT and UNTIL"),
        ("FREQ=DAILY;COUNT=3", "counts its COUNT from a start.*Monday, 01 January 2001"),
        ("FREQ=WEEKLY;INTERVAL=2", "counts its INTERVAL from a start"),
        ("FREQ=HOURLY;INTERVAL=5", "counts its INTERVAL from a start"),
        ("DTSTART:20260101 FREQ=YEARLY;COUNT=100", "more than 50 years"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "never comes"),
        ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "never comes"),
        ("FREQ=HOURLY;INTERVAL=2;BYHOUR=1,3", "never comes"),
        ("FREQ=MINUTELY;INTERVAL=2;BYMINUTE=1", "never comes"),
        ("DTSTART:20260101 FREQ=DAILY;BYHOUR=9;UNTIL=20251231", "UNTIL is before its first slot"),
    ],
)
def test_a_rule_that_is_wrong_or_misleading_is_refused_with_the_reason(rule, reason):
    with pytest.raises(ConfigurationError, match=reason):
        Recurrence.from_rrule(rule, BERLIN)


pieces = "FREQ=DAILY FREQ=YEARLY FREQ=MINUTELY BYHOUR=3 BYMONTHDAY=-1 INTERVAL=4 COUNT=2 BYDAY=1MO UNTIL=20300101 X = WKST=SU"
fronts = ["", "DTSTART:20240229T235959 ", "DTSTART:20260101T000000Z RRULE:", "RRULE:"]


@given(st.lists(st.sampled_from(pieces.split()), max_size=4), st.sampled_from(fronts))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_rule_that_comes_or_a_configuration_error(parts, before):
    try:
        recurrence = Recurrence.from_rrule(before + ";".join(parts), BERLIN)
    except ConfigurationError:
        return
    first = recurrence.first(utc(2020, 1, 1))
    assert first is not None
    assert first > utc(2020, 1, 1)


# ── bounds of a schedule ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_start_is_the_grid_of_a_frequency_and_the_first_instant_of_a_rule():
    every, nightly = Recurrence.every(HOUR), Recurrence.from_rrule("FREQ=DAILY;BYHOUR=3")
    assert every.first(NOW, start_at=utc(2026, 1, 15, 10, 20)) == utc(2026, 1, 15, 12, 20)
    assert every.first(NOW, start_at=NOW) == NOW
    assert every.first(NOW, start_at=utc(2026, 2, 1)) == utc(2026, 2, 1)
    assert nightly.first(NOW, start_at=utc(2026, 2, 1, 3)) == utc(2026, 2, 1, 3)
    assert nightly.first(NOW, start_at=utc(2025, 2, 1, 3)) == utc(2026, 1, 16, 3)


@given(
    span=st.integers(0, 40),
    end=st.none() | st.integers(-2, 50),
    runs=st.none() | st.integers(0, 10),
    missed=st.sampled_from(["last", "skip", "all"]),
    bound=st.integers(1, 30),
)
@settings(deadline=None)
def test_bounds_let_no_slot_fire_that_is_too_late_or_one_too_many(span, end, runs, missed, bound):
    start = utc(2026, 1, 1)
    end_at = None if end is None else start + end * HOUR
    due = Recurrence.every(HOUR).catch_up(
        next_run_at=start, now=start + span * HOUR, missed=missed, bound=bound, end_at=end_at, runs=runs
    )
    slots = [start + number * HOUR for number in range(span + 1) if end is None or number <= end]
    if runs == 0 or not slots:
        assert (due.fire, due.skipped_count, due.next_run_at) == ((), 0, None)
        return
    assert len(due.fire) <= (bound if runs is None else min(bound, runs))
    decided = due.skipped_count + len(due.fire)
    assert due.fire == tuple(slots[due.skipped_count : decided])
    following = start + decided * HOUR
    assert due.next_run_at == (following if end_at is None or following <= end_at else None)
    assert decided == len(slots) or (missed == "all" and len(due.fire) == runs)
