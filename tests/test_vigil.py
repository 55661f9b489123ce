"""What a supervisor concludes from what it sees of a child."""

from __future__ import annotations

from dataclasses import replace

from pgqueue.vigil import Sight, Vigil, pause

LEASE = 30.0
WELL = Sight(is_busy=True, tick_at=100.0, reached_at=100.0, lane_opened_at=0.0, beat_at=100.0, trying_since=None)


def vigil(now: float = 100.0) -> Vigil:
    return Vigil(lease_seconds=LEASE, now=now)


def test_a_stall_is_said_once_and_its_end_too() -> None:
    watch = vigil()
    said = [watch.look(WELL, now=now) for now in (101, 104, 106, 110, 150)]
    assert [word and word.split()[0] for word in said] == [None, None, "does", None, None]
    assert watch.look(replace(WELL, tick_at=150.5), now=150.6) == "answers again"
    assert watch.look(replace(WELL, tick_at=151.0), now=151.1) is None


def test_one_that_blocks_is_beaten_for_however_long_it_takes() -> None:
    watch = vigil()
    watch.look(WELL, now=200.0)
    assert watch.may_beat(WELL, now=200.0)
    assert watch.lapse(replace(WELL, beat_at=199.0), now=200.0) is None


def test_one_that_lives_and_does_not_reach_the_database_is_not_beaten_for_and_then_killed() -> None:
    watch = vigil()
    for second in range(100, 126):
        sight = replace(WELL, tick_at=float(second))
        watch.look(sight, now=float(second))
        assert watch.may_beat(sight, now=float(second)) is (second <= 115)
        assert (watch.lapse(sight, now=float(second)) is not None) is (second > 120)


def test_one_that_goes_on_after_a_stall_has_time_to_reach_the_database() -> None:
    watch = vigil()
    watch.look(WELL, now=160.0)
    sight = replace(WELL, tick_at=161.0)
    watch.look(sight, now=161.0)
    assert watch.may_beat(sight, now=161.0)


def test_a_lease_that_cannot_be_renewed_is_given_up_at_two_thirds() -> None:
    failing = replace(WELL, tick_at=1e9, reached_at=1e9, trying_since=105.0)
    assert vigil(1e9).lapse(failing, now=119.0) is None
    assert "could not be renewed" in (vigil(1e9).lapse(failing, now=121.0) or "")
    assert vigil(1e9).lapse(replace(failing, is_busy=False), now=121.0) is None


def test_a_supervisor_that_was_stopped_itself_tries_to_renew_first() -> None:
    woken = replace(WELL, tick_at=1e9, reached_at=1e9, trying_since=None)
    assert vigil(1e9).lapse(woken, now=500.0) is None
    trying = replace(woken, trying_since=499.0)
    assert vigil(1e9).lapse(trying, now=500.0) is None
    assert vigil(1e9).lapse(trying, now=503.0) is not None


def test_an_open_lane_lapses_even_while_its_child_is_beaten_for() -> None:
    lane = replace(WELL, lane_opened_at=100.0, beat_at=120.0)
    assert vigil().lapse(lane, now=119.0) is None
    assert "locks its tasks" in (vigil().lapse(lane, now=121.0) or "")


def test_the_pause_grows_from_nothing_to_half_a_minute() -> None:
    assert [pause(count) for count in (0, 1, 2, 3, 4, 9, 10, 1_000)] == [0.0, 0.0, 0.2, 0.4, 0.8, 25.6, 30.0, 30.0]
