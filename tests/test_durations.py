"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgqueue.durations import LONGEST_TEXT, format_duration, parse_duration
from pgqueue.errors import ConfigurationError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("30s", timedelta(seconds=30)),
        ("500ms", timedelta(milliseconds=500)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        (" 1h 30m ", timedelta(hours=1, minutes=30)),
        ("2d", timedelta(days=2)),
        ("1.5h", timedelta(minutes=90)),
        ("1m5ms", timedelta(minutes=1, milliseconds=5)),
        ("7us", timedelta(microseconds=7)),
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
        ("90", timedelta(seconds=90)),
        (90, timedelta(seconds=90)),
        (0.25, timedelta(milliseconds=250)),
        (0, timedelta(0)),
        (timedelta(minutes=3), timedelta(minutes=3)),
    ],
)
def test_a_duration_is_read_in_every_spelling(written, meant):
    assert parse_duration(written) == meant


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        " ",
        "soon",
        "5 minutes",
        "5M",
        "30m1h",
        "1h1h",
        "h",
        "1e9",
        "1..5s",
        ".5s",
        "5.s",
        "٣s",
        "1_000",
        "+5s",
        "--5s",
        "inf",
        "nan",
    ],
)
def test_text_that_is_no_duration_is_refused_with_examples(nonsense):
    with pytest.raises(ConfigurationError, match="1h30m"):
        parse_duration(nonsense)


@pytest.mark.parametrize("negative", [-1, -0.5, "-5s", "-1h30m", "-3", timedelta(seconds=-1)])
def test_a_negative_duration_is_refused_as_such(negative):
    with pytest.raises(ConfigurationError, match="cannot be negative"):
        parse_duration(negative)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), True, None, [], b"5s", 1j])
def test_what_is_no_finite_number_is_refused(number):
    with pytest.raises(ConfigurationError, match="not a duration"):
        parse_duration(number)


@pytest.mark.parametrize("long", [1e300, 10**30, 10**5000, -(10**5000), "99999999999999d"], ids=lambda long: type(long).__name__)
def test_a_duration_too_long_for_a_timedelta_is_refused(long):
    with pytest.raises(ConfigurationError, match="too long"):
        parse_duration(long)


def test_an_endless_text_is_refused_and_not_repeated_in_the_message():
    with pytest.raises(ConfigurationError) as caught:
        parse_duration("9" * 1_000_000)
    assert len(str(caught.value)) < 4 * LONGEST_TEXT


@pytest.mark.parametrize("fine", ["0.1us", "0.0000001s", 1e-9])
def test_a_duration_finer_than_a_microsecond_is_refused_instead_of_becoming_nothing(fine):
    with pytest.raises(ConfigurationError, match="not a duration"):
        parse_duration(fine)


@pytest.mark.parametrize(
    ("duration", "shown"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=5), "5s"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(hours=1, minutes=30), "1h30m"),
        (timedelta(days=2), "2d"),
        (timedelta(days=1, seconds=1), "1d1s"),
        (timedelta(milliseconds=500), "500ms"),
        (timedelta(milliseconds=1500), "1.5s"),
        (timedelta(microseconds=1500), "1.5ms"),
        (timedelta(microseconds=5), "5us"),
        (timedelta(seconds=100), "1m40s"),
        (timedelta(seconds=-90), "-1m30s"),
    ],
)
def test_a_duration_is_shown_in_its_shortest_exact_form(duration, shown):
    assert format_duration(duration) == shown


@given(st.timedeltas(min_value=timedelta(0)))
@example(timedelta.max)
@example(timedelta(microseconds=999_999))
def test_what_is_shown_is_read_back_exactly(duration):
    assert parse_duration(format_duration(duration)) == duration


@given(st.one_of(st.text(alphabet="0123456789.-+ dhmsu", max_size=20), st.text(), st.floats(), st.integers()))
def test_whatever_is_given_is_a_duration_or_a_configuration_error(value):
    try:
        duration = parse_duration(value)
    except ConfigurationError:
        return
    assert duration >= timedelta(0)
