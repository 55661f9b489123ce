"""Who has fallen silent, as one watcher sees it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from pgqueue.watch import Watch

LEASE = 30.0
START = datetime(2026, 1, 1, tzinfo=UTC)
A, B = uuid.UUID(int=1), uuid.UUID(int=2)


def beat(number: int) -> datetime:
    return START + timedelta(seconds=number)


def silence(
    watch: Watch, *, since: float, until: float, connection: int = 1, runner: uuid.UUID = A
) -> list[tuple[uuid.UUID, datetime | None]]:
    """Look every five seconds at a beat that stands still; what the last look gave."""
    found: list[tuple[uuid.UUID, datetime | None]] = []
    now = since
    while now <= until:
        found = watch.stale([(runner, beat(0))], now=now, connection=connection)
        now += 5
    return found


def test_a_runner_is_stale_when_its_beat_has_not_changed_for_a_lease() -> None:
    watch = Watch(lease_seconds=LEASE)
    assert silence(watch, since=0, until=30) == []
    assert silence(watch, since=35, until=35) == [(A, beat(0))]


def test_a_runner_that_beats_is_never_stale() -> None:
    watch = Watch(lease_seconds=LEASE)
    assert [watch.stale([(A, beat(now))], now=now, connection=1) for now in range(0, 300, 5)] == [[]] * 60


def test_a_beat_that_changes_counts_though_its_clock_went_back() -> None:
    watch = Watch(lease_seconds=LEASE)
    silence(watch, since=0, until=30)
    assert watch.stale([(A, beat(-3_600))], now=35, connection=1) == []


def test_how_old_a_beat_is_by_its_own_clock_does_not_matter() -> None:
    watch = Watch(lease_seconds=LEASE)
    assert watch.stale([(A, beat(-10_000_000))], now=0, connection=1) == []


def test_silence_is_counted_from_the_last_reconnect() -> None:
    watch = Watch(lease_seconds=LEASE)
    silence(watch, since=0, until=30)
    assert silence(watch, since=35, until=65, connection=2) == []
    assert silence(watch, since=70, until=70, connection=2) == [(A, beat(0))]


def test_a_watcher_that_was_stopped_for_a_while_begins_anew() -> None:
    watch = Watch(lease_seconds=LEASE)
    silence(watch, since=0, until=10)
    assert silence(watch, since=1_000, until=1_030) == []
    assert silence(watch, since=1_035, until=1_035) == [(A, beat(0))]


def test_a_runner_that_left_and_one_that_came_are_counted_anew() -> None:
    watch = Watch(lease_seconds=LEASE)
    silence(watch, since=0, until=25)
    assert watch.stale([], now=30, connection=1) == []
    assert watch.stale([(A, beat(0)), (B, beat(0))], now=35, connection=1) == []


def test_one_that_holds_tasks_without_being_registered_is_stale_after_a_lease_too() -> None:
    watch = Watch(lease_seconds=LEASE)
    looks = [watch.stale([(A, None)], now=now, connection=1) for now in range(0, 36, 5)]
    assert looks == [[]] * 7 + [[(A, None)]]
    assert watch.stale([(A, beat(0))], now=40, connection=1) == []
