"""Watermarks: the segments of a claim, against a model."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from pgqueue.context import Claimed
from pgqueue.watermark import FIRST, LAST, NIL, PRIORITIES_MAX, STEP_TASKS, STEPS_MAX, WHOLE, Segments, Slice, Watermarks

START = datetime(2026, 1, 1, tzinfo=UTC)
Key = tuple[int, datetime, str]
"""Priority, maturity and id."""

priorities = st.one_of(st.integers(-3, 3), st.sampled_from([-32_767, 32_767]))
instants = st.integers(0, 5).map(lambda seconds: START + timedelta(seconds=seconds))
ids = st.integers(0, 5).map(lambda number: str(uuid.UUID(int=number)))
keys = st.tuples(priorities, instants, ids)
steps = st.lists(st.tuples(st.sampled_from(["claim", "retreat"]), keys), max_size=30)


def claimed(key: Key) -> Claimed:
    priority, maturity_at, id = key
    return Claimed("default", NIL, id, "a-type", 1, priority, maturity_at, maturity_at, "{}", None, None)


def finders(segments: Segments, key: Key) -> int:
    """How many of the segments a key lies in, by the comparison that claim.sql makes."""
    priority, maturity_at, id = key
    count = 0
    for first, maturity, first_id, last in zip(*segments[:4], strict=True):
        at = datetime.min.replace(tzinfo=UTC) if maturity == "-infinity" else datetime.fromisoformat(maturity)
        count += (-priority, maturity_at, id) >= (first, at, first_id) and -priority <= last
    return count


@given(steps=steps, key=keys)
def test_together_the_segments_hold_every_key_that_is_not_behind_its_watermark_and_each_once(steps: Any, key: Key) -> None:
    watermarks = Watermarks()
    model: dict[int, tuple[datetime, str]] = {}
    for action, (priority, maturity_at, id) in steps:
        mark = (maturity_at, id)
        if action == "claim":
            watermarks.advance([claimed((priority, maturity_at, id))], 1, watermarks.segments())
            model[priority] = max(model.get(priority, mark), mark)
        else:
            watermarks.retreat(priority, maturity_at, id)
            if priority in model:
                model[priority] = min(model[priority], mark)
    priority, maturity_at, id = key
    is_behind = priority in model and (maturity_at, id) < model[priority]
    assert finders(watermarks.segments(), key) == (0 if is_behind else 1)


def test_a_queue_not_claimed_from_yet_is_scanned_whole() -> None:
    assert Watermarks().segments() == WHOLE
    assert finders(WHOLE, (-LAST, START, NIL)) == finders(WHOLE, (-FIRST, START, NIL)) == 1


def test_after_forgetting_the_next_claim_scans_from_the_head() -> None:
    watermarks = Watermarks()
    watermarks.advance([claimed((100, START, NIL))], 1, watermarks.segments())
    watermarks.forget()
    assert watermarks.segments() == WHOLE


def test_a_task_given_back_is_ahead_of_its_watermark_again() -> None:
    watermarks = Watermarks()
    first, second = (100, START, NIL), (100, START + timedelta(seconds=1), NIL)
    watermarks.advance([claimed(first), claimed(second)], 2, watermarks.segments())
    assert finders(watermarks.segments(), first) == 0
    watermarks.retreat(*first)
    assert finders(watermarks.segments(), first) == 1


def test_a_priority_not_seen_before_lies_in_some_segment() -> None:
    watermarks = Watermarks()
    watermarks.advance([claimed((100, START, NIL)), claimed((50, START, NIL))], 2, watermarks.segments())
    early = START - timedelta(days=1)
    assert [finders(watermarks.segments(), (priority, early, NIL)) for priority in (32_767, 101, 100, 75, 50, 1, -32_767)] == [
        1,
        1,
        0,
        1,
        0,
        1,
        1,
    ]


def test_of_very_many_priorities_the_lowest_share_a_segment_and_no_key_is_lost() -> None:
    watermarks = Watermarks()
    for priority in range(PRIORITIES_MAX * 2):
        watermarks.advance([claimed((priority, START, NIL))], 1, watermarks.segments())
    segments = watermarks.segments()
    assert len(segments.ids) <= PRIORITIES_MAX + 1
    later = START + timedelta(seconds=1)
    assert {finders(segments, (priority, later, NIL)) for priority in range(PRIORITIES_MAX * 2)} == {1}


def test_a_stranger_of_one_priority_too_many_is_no_news() -> None:
    watermarks = Watermarks()
    for priority in range(PRIORITIES_MAX):
        assert watermarks.pass_by(priority, START, NIL, 1, watermarks.segments())
    assert not watermarks.pass_by(-1, START, NIL, 1, watermarks.segments())


# ── behind the watermarks ───────────────────────────────────────────────────────────────────────────────────────────


def slices_with(slices: list[Slice], key: Key) -> int:
    """How many of the slices a key lies in, by the comparison that scan_head.sql makes."""
    priority, maturity_at, id = key
    count = 0
    for slice in slices:
        lower = (
            datetime.min.replace(tzinfo=UTC)
            if slice.lower_maturity == "-infinity"
            else datetime.fromisoformat(slice.lower_maturity)
        )
        upper = datetime.fromisoformat(slice.upper_maturity)
        count += slice.priority == -priority and (lower, slice.lower_id) <= (maturity_at, id) < (upper, slice.upper_id)
    return count


@given(steps=steps, key=keys, distance=st.integers(1, 3))
def test_a_key_lies_either_in_a_segment_or_in_a_slice_and_in_one_only(steps: Any, key: Key, distance: int) -> None:
    with patch("pgqueue.watermark.STEP_TASKS", distance), patch("pgqueue.watermark.STEPS_MAX", 4):
        watermarks = Watermarks()
        for action, step in steps:
            if action == "claim":
                watermarks.advance([claimed(step)], 1, watermarks.segments())
            else:
                watermarks.retreat(*step)
        slices = watermarks.slices()
        assert finders(watermarks.segments(), key) + slices_with(slices, key) == 1
        found = watermarks.slice_of(*key)
        assert (found in slices) == (slices_with(slices, key) == 1)
        assert found is None or slices_with([found], key) == 1
        assert set(watermarks.edges()) <= set(slices)


def test_keys_are_remembered_some_way_apart_and_thinned_out_when_there_are_too_many() -> None:
    watermarks = Watermarks()
    for number in range(1, 4 * STEPS_MAX):
        key = (100, START + timedelta(seconds=number), NIL)
        watermarks.advance([claimed(key)], STEP_TASKS, watermarks.segments())
        assert len(watermarks.slices()) <= STEPS_MAX + 1
    assert len(watermarks.slices()) > STEPS_MAX // 2


def test_a_claim_that_was_under_way_when_its_watermark_went_back_does_not_move_it_ahead() -> None:
    watermarks = Watermarks()
    first, second, third = ((100, START + timedelta(seconds=number), NIL) for number in range(3))
    watermarks.advance([claimed(second)], 1, watermarks.segments())
    under_way = watermarks.segments()
    watermarks.retreat(*first)
    watermarks.advance([claimed(third)], 1, under_way)
    assert finders(watermarks.segments(), first) == 1
    watermarks.advance([claimed(third)], 1, watermarks.segments())
    assert finders(watermarks.segments(), first) == 0


def test_strangers_are_passed_by_as_if_they_had_been_claimed() -> None:
    watermarks = Watermarks()
    stranger = (100, START, NIL)
    assert watermarks.pass_by(*stranger, 1, watermarks.segments())
    assert not watermarks.pass_by(*stranger, 1, watermarks.segments())
    assert finders(watermarks.segments(), (100, START - timedelta(seconds=1), NIL)) == 0
    assert finders(watermarks.segments(), stranger) == 1
