"""How many tasks a runner claims ahead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue.prefetch import Prefetch


def measured(*, duration_seconds: float, round_trip_seconds: float, concurrency: int = 10, limit: int = 1_000) -> Prefetch:
    """After a while of tasks that take so long."""
    prefetch = Prefetch(concurrency=concurrency, limit=limit)
    for count in range(100):
        prefetch.observe_duration(duration_seconds)
        prefetch.observe_round_trip(round_trip_seconds, count * duration_seconds)
    return prefetch


def test_before_anything_is_measured_only_the_slots_are_filled() -> None:
    prefetch = Prefetch(concurrency=10, limit=1_000)
    assert prefetch.buffer() == 0
    assert prefetch.request(0) == 10
    assert prefetch.request(10) == 0


def test_tasks_of_a_second_are_not_hoarded() -> None:
    assert measured(duration_seconds=1.0, round_trip_seconds=0.002).buffer() == 0


def test_tasks_that_end_at_once_are_claimed_by_the_hundred() -> None:
    assert measured(duration_seconds=0.00002, round_trip_seconds=0.002).buffer() >= 500


def test_a_task_that_takes_no_time_at_all_does_not_divide_by_zero() -> None:
    assert measured(duration_seconds=0.0, round_trip_seconds=0.002).buffer() == 1_000


def test_the_pace_that_was_reached_counts_where_tasks_wait_for_each_other() -> None:
    prefetch = Prefetch(concurrency=10, limit=1_000)
    prefetch.observe_round_trip(0.002, 0.0)
    for _ in range(1_000):
        prefetch.observe_duration(0.05)
    prefetch.observe_round_trip(0.002, 0.01)  # 1,000 tasks in 10 ms, though each looked like 50
    assert prefetch.buffer() >= 300


def test_after_the_work_has_become_slow_the_buffer_shrinks_again() -> None:
    prefetch = measured(duration_seconds=0.00002, round_trip_seconds=0.002)
    now = 100.0
    for _ in range(60):
        prefetch.observe_duration(2.0)
        now += 0.2
        prefetch.observe_round_trip(0.002, now)
    assert prefetch.buffer() == 0


@given(
    duration_seconds=st.floats(0, 3_600),
    round_trip_seconds=st.floats(0, 60),
    concurrency=st.integers(1, 10_000),
    limit=st.integers(0, 20_000),
    in_hand=st.integers(0, 50_000),
)
def test_a_runner_never_asks_for_more_than_slots_and_limit_nor_idles_with_a_free_slot(
    duration_seconds: float, round_trip_seconds: float, concurrency: int, limit: int, in_hand: int
) -> None:
    prefetch = Prefetch(concurrency=concurrency, limit=limit)
    prefetch.observe_duration(duration_seconds)
    prefetch.observe_round_trip(round_trip_seconds, 0.0)
    prefetch.observe_duration(duration_seconds)
    prefetch.observe_round_trip(round_trip_seconds, duration_seconds)
    request = prefetch.request(in_hand)
    assert 0 <= request <= max(0, concurrency + limit - in_hand)
    if in_hand < concurrency:
        assert request >= concurrency - in_hand


@pytest.mark.parametrize("in_hand", [10, 11, 1_000])
def test_a_full_runner_asks_for_nothing(in_hand: int) -> None:
    assert Prefetch(concurrency=10, limit=1_000).request(in_hand) == 0


def test_nothing_more_is_claimed_for_batch_types_while_none_of_them_runs() -> None:
    prefetch = measured(duration_seconds=1.0, round_trip_seconds=0.002)
    for _ in range(100):
        prefetch.observe_width(1)
    assert prefetch.request(0, 10) == 10


def test_a_free_slot_is_worth_a_whole_call_while_batch_types_run() -> None:
    prefetch = measured(duration_seconds=1.0, round_trip_seconds=0.002)
    for _ in range(100):
        prefetch.observe_width(50)
    assert prefetch.request(0, 10) == 500
    assert prefetch.request(9, 1) == 50
    assert prefetch.request(10, 0) == 0


def test_a_runner_of_batch_types_alone_fills_its_first_calls() -> None:
    assert Prefetch(concurrency=10, limit=1_000, width=20).request(0, 10) == 200


def test_what_is_held_ahead_are_whole_calls() -> None:
    prefetch = measured(duration_seconds=0.01, round_trip_seconds=0.0021)
    for _ in range(100):
        prefetch.observe_width(50)
    assert prefetch.buffer() == 4 * 50
    prefetch.observe_duration(1_000.0)
    assert prefetch.buffer() == 0


@given(
    widths=st.lists(st.integers(1, 10_000), max_size=20),
    concurrency=st.integers(1, 1_000),
    limit=st.integers(0, 20_000),
    taken=st.integers(0, 1_000),
    buffered=st.integers(0, 50_000),
)
def test_however_wide_calls_are_the_limit_holds_and_a_free_slot_gets_a_task(
    widths: list[int], concurrency: int, limit: int, taken: int, buffered: int
) -> None:
    prefetch = Prefetch(concurrency=concurrency, limit=limit)
    for width in widths:
        prefetch.observe_duration(0.001)
        prefetch.observe_width(width)
    taken = min(taken, concurrency)
    request = prefetch.request(taken + buffered, concurrency - taken)
    assert 0 <= request <= max(0, concurrency + limit - taken - buffered)
    if taken + buffered < concurrency:
        assert request >= concurrency - taken - buffered
