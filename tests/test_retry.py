"""When a failed task is tried again."""

from __future__ import annotations

import re
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue.errors import ConfigurationError
from pgqueue.retry import LONGEST_DELAY, MOST_ATTEMPTS, NO_RETRY, Retry

SECOND = timedelta(seconds=1)


def pauses(retry: Retry, count: int) -> list[float | None]:
    """The delays after the first `count` attempts, in seconds."""
    delays = [retry.delay(tries=tries, error=OSError(), random=Random(0)) for tries in range(count)]
    return [None if delay is None else delay.total_seconds() for delay in delays]


async def is_wanted_async(error: BaseException) -> bool:
    return True


def test_five_attempts_are_four_retries():
    assert [pause is None for pause in pauses(Retry(max_attempts=5), 6)] == [False, False, False, False, True, True]


def test_no_retry_gives_up_after_the_first_attempt():
    assert pauses(NO_RETRY, 1) == [None]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [("exponential", [2, 4, 8, 16, 20, 20]), ("linear", [2, 4, 6, 8, 10, 12]), ("fixed", [2, 2, 2, 2, 2, 2])],
)
def test_each_backoff_grows_in_its_own_way_up_to_the_maximum(backoff, expected):
    retry = Retry(backoff=backoff, initial=2 * SECOND, maximum=20 * SECOND, jitter=0)
    assert pauses(retry, 6) == expected


def test_an_initial_pause_of_zero_tries_again_at_once_every_time():
    assert pauses(Retry(max_attempts=4, initial=timedelta(0)), 4) == [0, 0, 0, None]


@given(tries=st.integers(0, 8), seed=st.integers())
def test_the_default_jitter_adds_ten_to_twenty_percent_after_the_cap(tries, seed):
    plain = Retry(maximum=60 * SECOND, jitter=0).delay(tries=tries, error=None, random=Random(seed))
    spread = Retry(maximum=60 * SECOND).delay(tries=tries, error=None, random=Random(seed))
    assert plain is not None
    assert spread is not None
    assert 1.1 * plain <= spread <= 1.2 * plain
    assert plain <= 60 * SECOND


@given(seed=st.integers())
def test_one_number_as_jitter_adds_up_to_that_fraction(seed):
    delay = Retry(initial=10 * SECOND, jitter=0.5).delay(tries=0, error=None, random=Random(seed))
    assert delay is not None
    assert 10 * SECOND <= delay <= 15 * SECOND


def test_two_draws_of_the_jitter_differ():
    random = Random(1)
    retry = Retry()
    assert retry.delay(tries=3, error=None, random=random) != retry.delay(tries=3, error=None, random=random)


@pytest.mark.parametrize("backoff", ["exponential", "linear", "fixed"])
@pytest.mark.parametrize("initial", [timedelta(microseconds=1), LONGEST_DELAY])
def test_the_last_of_very_many_tries_does_not_overflow(backoff, initial):
    retry = Retry(max_attempts=MOST_ATTEMPTS, backoff=backoff, initial=initial, maximum=LONGEST_DELAY, jitter=1)
    delay = retry.delay(tries=MOST_ATTEMPTS - 2, error=OSError(), random=Random(0))
    assert delay is not None
    assert initial <= delay <= 2 * LONGEST_DELAY
    assert retry.delay(tries=10**30, error=OSError(), random=Random(0)) is None


@pytest.mark.parametrize(
    ("options", "error", "is_retried"),
    [
        ({}, ValueError(), True),
        ({}, SystemExit(1), True),
        ({"on": OSError}, ConnectionResetError(), True),
        ({"on": OSError}, ValueError(), False),
        ({"on": (OSError, ValueError)}, ValueError(), True),
        ({"on": lambda error: "busy" in str(error)}, RuntimeError("busy"), True),
        ({"on": lambda error: "busy" in str(error)}, RuntimeError("gone"), False),
        ({"unless": FileNotFoundError}, FileNotFoundError(), False),
        ({"unless": (FileNotFoundError,)}, OSError(), True),
        ({"on": OSError, "unless": FileNotFoundError}, FileNotFoundError(), False),
        ({"on": OSError, "unless": lambda error: error.errno == 2}, OSError(2, "no"), False),
        ({"on": OSError}, None, True),
        ({"unless": lambda error: True}, None, True),
    ],
)
def test_errors_are_retried_as_on_and_unless_say(options, error, is_retried):
    assert (Retry(**options).delay(tries=0, error=error, random=Random(0)) is not None) is is_retried


def test_an_exception_of_a_predicate_reaches_the_caller():
    retry = Retry(on=lambda error: bool(error.args[7]))
    with pytest.raises(IndexError):
        retry.delay(tries=0, error=OSError(), random=Random(0))


def test_a_predicate_is_not_asked_once_the_attempts_are_used_up():
    retry = Retry(max_attempts=1, on=lambda error: pytest.fail("asked"))
    assert retry.delay(tries=0, error=OSError(), random=Random(0)) is None


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": True},
        {"max_attempts": 2.5},
        {"max_attempts": "5"},
        {"max_attempts": MOST_ATTEMPTS + 1},
        {"backoff": "quadratic"},
        {"backoff": ["fixed"]},
        {"initial": 5},
        {"initial": timedelta(seconds=-1)},
        {"maximum": "1h"},
        {"maximum": timedelta.max},
        {"maximum": timedelta(milliseconds=1)},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": float("nan")},
        {"jitter": (0.2, 0.1)},
        {"jitter": (0.1, float("inf"))},
        {"jitter": (0.1,)},
        {"jitter": (0.1, "0.2")},
        {"jitter": None},
        {"jitter": True},
        {"on": ()},
        {"on": "OSError"},
        {"on": (OSError, "ValueError")},
        {"on": int},
        {"on": OSError()},
        {"on": is_wanted_async},
        {"unless": ()},
        {"unless": (int,)},
        {"unless": 5},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any]):
    (name,) = options
    with pytest.raises(ConfigurationError, match=re.escape(f"Retry {name}")):
        Retry(**options)


def test_tries_below_zero_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="tries"):
        Retry().delay(tries=-1, error=None, random=Random(0))


def test_a_policy_is_a_value():
    assert Retry(max_attempts=3) == Retry(max_attempts=3)
    assert hash(Retry(on=OSError)) == hash(Retry(on=OSError))


def test_a_policy_is_described_for_people():
    assert Retry(max_attempts=5).describe() == "5 attempts, exponential from 1s up to 1h"
    assert Retry(max_attempts=3, backoff="fixed", initial=5 * SECOND).describe() == "3 attempts, fixed every 5s"
    assert NO_RETRY.describe() == "1 attempt"
