"""Watermarks: the segments of a claim, against a model."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pgqueue.context import Claimed
from pgqueue.watermark import FIRST, LAST, NIL, PRIORITIES_MAX, WHOLE, Segments, Watermarks

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
    for first, maturity, first_id, last in zip(*segments, strict=True):
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
            watermarks.advance([claimed((priority, maturity_at, id))], 1)
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
    watermarks.advance([claimed((100, START, NIL))], 1)
    watermarks.forget()
    assert watermarks.segments() == WHOLE


def test_a_task_given_back_is_ahead_of_its_watermark_again() -> None:
    watermarks = Watermarks()
    first, second = (100, START, NIL), (100, START + timedelta(seconds=1), NIL)
    watermarks.advance([claimed(first), claimed(second)], 2)
    assert finders(watermarks.segments(), first) == 0
    watermarks.retreat(*first)
    assert finders(watermarks.segments(), first) == 1


def test_a_priority_not_seen_before_lies_in_some_segment() -> None:
    watermarks = Watermarks()
    watermarks.advance([claimed((100, START, NIL)), claimed((50, START, NIL))], 2)
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
        watermarks.advance([claimed((priority, START, NIL))], 1)
    segments = watermarks.segments()
    assert len(segments.ids) <= PRIORITIES_MAX + 1
    later = START + timedelta(seconds=1)
    assert {finders(segments, (priority, later, NIL)) for priority in range(PRIORITIES_MAX * 2)} == {1}
