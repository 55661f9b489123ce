"""Whose turn it is among several queues."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pgqueue.turns import PAUSE_MIN_SECONDS, Turns

weights = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 1_000), min_size=1)


def served(turns: Turns, *, limit: int, rounds: int) -> Counter[str]:
    """Tasks of each queue, where every queue has enough of them."""
    counts: Counter[str] = Counter()
    for _ in range(rounds):
        for queue, share in turns.shares(limit, 0.0):
            counts[queue] += share
            turns.found(queue, share, 0.0)
    return counts


@given(weights=weights, limits=st.lists(st.integers(1, 500), min_size=1, max_size=50))
def test_shares_are_positive_name_a_queue_once_and_stay_within_the_limit(weights: dict[str, int], limits: list[int]) -> None:
    turns = Turns(weights, pause_max_seconds=1.0)
    for limit in limits:
        shares = turns.shares(limit, 0.0)
        assert all(share >= 1 for _, share in shares)
        assert len({queue for queue, _ in shares}) == len(shares)
        assert 1 <= sum(share for _, share in shares) <= limit


@given(weights=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 10), min_size=1), limit=st.integers(1, 20))
def test_over_time_each_queue_gets_its_weight_also_where_slots_become_free_one_by_one(
    weights: dict[str, int], limit: int
) -> None:
    rounds = 400
    counts = served(Turns(weights, pause_max_seconds=1.0), limit=limit, rounds=rounds)
    total = sum(weights.values())
    for queue, weight in weights.items():
        assert abs(counts[queue] - rounds * limit * weight / total) <= len(weights) + 1


def test_three_to_one_is_three_to_one_with_one_slot() -> None:
    assert served(Turns({"a": 3, "b": 1}, pause_max_seconds=1.0), limit=1, rounds=400) == {"a": 300, "b": 100}


def test_the_queue_that_is_owed_most_comes_first() -> None:
    turns = Turns({"a": 1, "b": 1}, pause_max_seconds=1.0)
    assert {turns.shares(1, 0.0)[0][0] for _ in range(2)} == {"a", "b"}


def test_an_empty_queue_sleeps_longer_each_time_up_to_the_limit_and_costs_the_others_nothing() -> None:
    turns = Turns({"empty": 1, "full": 1}, pause_max_seconds=1.0)
    now, pauses = 0.0, []
    for _ in range(20):
        turns.found("empty", 0, now)
        assert turns.shares(10, now) == [("full", 10)]
        pause = turns._due_at["empty"] - now
        pauses.append(round(pause, 9))
        now += pause
    assert pauses[0] == PAUSE_MIN_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == 1.0


def test_an_empty_queue_saves_up_nothing() -> None:
    turns = Turns({"a": 1, "b": 1}, pause_max_seconds=1.0)
    for now in range(100):
        for queue, share in turns.shares(10, float(now)):
            turns.found(queue, share if queue == "a" else 0, float(now))
    turns.wake()
    assert dict(turns.shares(10, 100.0)) == {"a": 5, "b": 5}


def test_something_found_or_a_wake_up_ends_the_sleep() -> None:
    turns = Turns({"a": 1, "b": 1}, pause_max_seconds=1.0)
    for queue in ("a", "b"):
        turns.found(queue, 0, 0.0)
    assert turns.shares(10, 0.0) == []
    assert turns.pause(0.0) == PAUSE_MIN_SECONDS
    turns.wake("a")
    assert turns.shares(10, 0.0) == [("a", 10)]
    turns.found("a", 3, 0.0)
    assert turns.pause(0.0) == 0.0
    turns.wake()
    assert dict(turns.shares(10, 0.0)) == {"a": 5, "b": 5}


def test_queues_are_discovered_only_where_none_were_named() -> None:
    named, all_of_them = Turns({"a": 1}, pause_max_seconds=1.0), Turns(None, pause_max_seconds=1.0)
    for turns in (named, all_of_them):
        turns.discover(["b", "c"])
    assert named.queues == ["a"]
    assert all_of_them.queues == ["b", "c"]


def test_with_no_queue_known_there_is_nothing_to_claim_and_the_longest_pause() -> None:
    turns = Turns(None, pause_max_seconds=0.7)
    assert turns.shares(10, 0.0) == []
    assert turns.pause(0.0) == 0.7
