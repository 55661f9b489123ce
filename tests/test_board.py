"""The memory that a child shares with its supervisor."""

from __future__ import annotations

import ctypes
import multiprocessing
from datetime import UTC, datetime

from pgqueue.board import NAMES_BYTES, OFF_BOARD, SPARE, Board, Started, size
from pgqueue.context import Claimed

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def claimed(number: int, queue: str = "default") -> Claimed:
    return Claimed(queue, "claim", f"{number:036d}", "plain", 1, 100, NOW, NOW, "{}", None, None)


def pair(capacity: int) -> tuple[Board, Board]:
    """The child's view and the supervisor's."""
    memory = multiprocessing.get_context("spawn").RawArray(ctypes.c_char, size(capacity))
    return Board(memory, capacity), Board(memory, capacity)


def test_what_one_side_starts_and_ends_the_other_side_sees() -> None:
    mine, theirs = pair(3)
    first = mine.started(claimed(1), 7.5)
    mine.started(claimed(2, "pòst"))
    assert sorted(theirs.attempts(), key=lambda started: started.id) == [
        Started("default", f"{1:036d}", 7.5), Started("pòst", f"{2:036d}", 0.0)
    ]  # fmt: skip
    assert theirs.is_busy
    mine.ended(first)
    assert [started.queue for started in theirs.attempts()] == ["pòst"]


def test_a_place_is_used_again_and_one_too_many_finds_none() -> None:
    mine, theirs = pair(2)
    for _ in range(3):
        positions = [mine.started(claimed(number)) for number in range(2 + SPARE + 1)]
        assert positions.count(OFF_BOARD) == 1
        assert len(theirs.attempts()) == 2 + SPARE
        for position in positions:
            mine.ended(position)
        assert not theirs.is_busy


def test_only_attempts_with_a_deadline_that_has_passed_are_overdue() -> None:
    mine, theirs = pair(3)
    for number, deadline in enumerate((0.0, 5.0, 9.0)):
        mine.started(claimed(number), deadline)
    assert [started.deadline for started in theirs.overdue(6.0)] == [5.0]
    assert theirs.overdue(4.0) == []


def test_a_queue_for_whose_name_there_is_no_room_is_off_the_board_and_harms_nobody() -> None:
    mine, theirs = pair(3)
    names = [f"{number}".rjust(200, "ü") for number in range(NAMES_BYTES // 400 + 5)]
    for name in names:
        mine.ended(mine.started(claimed(1, name)))
    assert mine.started(claimed(1, names[-1])) == OFF_BOARD
    mine.started(claimed(2, names[0]))
    assert [started.queue for started in theirs.attempts()] == [names[0]]


def test_counts_and_instants_travel() -> None:
    mine, theirs = pair(1)
    assert (theirs.tick_at, theirs.reached_at, theirs.lane_opened_at) == (0.0, 0.0, 0.0)
    mine.tick(1.5, running_count=2, processed_count=3, memory_bytes=4)
    mine.reached(2.5)
    mine.lane_open_since(3.5)
    theirs.peers = 9
    assert (theirs.tick_at, theirs.reached_at, theirs.lane_opened_at) == (1.5, 2.5, 3.5)
    assert (theirs.running_count, theirs.processed_count, theirs.memory_bytes, mine.peers) == (2, 3, 4, 9)
