"""The board: memory that a child process shares with its supervisor, who reads it after the child was killed as well.

The child writes when its loop last turned, when it last reached the database, since when a transaction of its lanes is open, how
much it has done, and every attempt that it has started and not ended. The supervisor writes how many runners there are. Instants
are those of CLOCK_MONOTONIC, which all processes of a machine share; 0 means never, or none. Nothing here locks: each value has
one writer, and an attempt counts from when its mark is written, which comes last.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from pgqueue.context import Claimed

SPARE = 1_000
"""Places beyond the slots, for a batch type's tasks: they share a slot, and each needs a place. The crash of an attempt that has
found none is not counted."""
NAMES_BYTES = 64 * 1024
"""Room for the names of queues: 5,000 short ones, 300 of the longest."""
OFF_BOARD = 0
"""The position of an attempt that found no place."""

_HEAD_BYTES = 64
_TICK_AT, _REACHED_AT, _LANE_OPENED_AT = 0, 1, 2  # of the head's doubles
_RUNNING, _PROCESSED, _PEERS, _NAMES_USED, _MEMORY = 3, 4, 5, 6, 7  # of its integers
_ENTRY = struct.Struct("<36sdI")  # task id, deadline, mark
_ENTRY_WORDS = _ENTRY.size // 4
_MARK_WORD = _ENTRY_WORDS - 1
_DEADLINE, _DEADLINE_OFFSET = struct.Struct("<d"), 36
_NAME = struct.Struct("<H")


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt that was started and has not ended."""

    queue: str
    id: str
    deadline: float


class Board:
    """One side's view of the memory. `memory` is anything of `size(capacity)` bytes that can be written to, zeroed."""

    def __init__(self, memory: Any, capacity: int) -> None:
        whole = memoryview(memory).cast("B")
        entries_at = _HEAD_BYTES + NAMES_BYTES
        self._instants = whole[:_HEAD_BYTES].cast("d")
        self._counts = whole[:_HEAD_BYTES].cast("q")
        self._names = whole[_HEAD_BYTES:entries_at]
        # The first place is left empty: its position would be OFF_BOARD.
        self._entries = whole[entries_at : size(capacity)]
        self._marks = self._entries.cast("I")[_MARK_WORD:]
        self._free = list(range((capacity + SPARE) * _ENTRY_WORDS, 0, -_ENTRY_WORDS))
        self._queues: dict[str, int] = {}
        self._pack = _ENTRY.pack_into

    @classmethod
    def private(cls, capacity: int) -> Board:
        """A board that nobody else sees, for a runner without a supervisor."""
        return cls(bytearray(size(capacity)), capacity)

    # ── the child writes ────────────────────────────────────────────────────────────────────────────────────────────

    def started(self, claimed: Claimed, deadline: float = 0.0) -> int:
        """An attempt begins; its position, for `ended`. `deadline`: when its timeout is up. Every task passes here."""
        try:
            mark = self._queues[claimed.queue]
        except KeyError:
            mark = self._note(claimed.queue)
        if not mark or not self._free:
            return OFF_BOARD
        position = self._free.pop()
        self._pack(self._entries, position * 4, claimed.id.encode(), deadline, mark)
        return position

    def set_deadline(self, position: int, deadline: float) -> None:
        """The attempt at this position must end by then."""
        if position:
            _DEADLINE.pack_into(self._entries, position * 4 + _DEADLINE_OFFSET, deadline)

    def ended(self, position: int) -> None:
        """The attempt at this position has ended."""
        if position:
            self._marks[position] = 0
            self._free.append(position)

    def tick(self, now: float, *, running_count: int, processed_count: int, memory_bytes: int = 0) -> None:
        """The loop turns."""
        self._counts[_RUNNING], self._counts[_PROCESSED], self._counts[_MEMORY] = running_count, processed_count, memory_bytes
        self._instants[_TICK_AT] = now

    def reached(self, now: float) -> None:
        """The database has answered."""
        self._instants[_REACHED_AT] = now

    def lane_open_since(self, instant: float) -> None:
        """When the oldest transaction with locked tasks in it began; 0: there is none."""
        self._instants[_LANE_OPENED_AT] = instant

    @property
    def peers(self) -> int:
        """How many runner processes there are, this one included; 0 before anybody has looked."""
        return self._counts[_PEERS]

    # ── the supervisor reads ────────────────────────────────────────────────────────────────────────────────────────

    @peers.setter
    def peers(self, count: int) -> None:
        self._counts[_PEERS] = count

    @property
    def tick_at(self) -> float:
        return self._instants[_TICK_AT]

    @property
    def reached_at(self) -> float:
        return self._instants[_REACHED_AT]

    @property
    def lane_opened_at(self) -> float:
        return self._instants[_LANE_OPENED_AT]

    @property
    def running_count(self) -> int:
        return self._counts[_RUNNING]

    @property
    def processed_count(self) -> int:
        return self._counts[_PROCESSED]

    @property
    def memory_bytes(self) -> int:
        """What the child says of itself; 0 where the system can be asked instead."""
        return self._counts[_MEMORY]

    @property
    def is_busy(self) -> bool:
        """Whether an attempt is started and has not ended."""
        return any(self._marks[::_ENTRY_WORDS])

    def attempts(self) -> list[Started]:
        """The attempts that are started and have not ended. Of a living child, one that begins just now may be mixed with the
        one that had its place before: what is done about a single attempt asks twice."""
        return [
            Started(self._name(mark), id.decode("ascii", "replace"), deadline)
            for id, deadline, mark in _ENTRY.iter_unpack(self._entries)
            if mark
        ]

    def overdue(self, now: float) -> list[Started]:
        """The attempts whose deadline has passed, as two looks agree."""
        first = self._past(now)
        return [started for started in self._past(now) if started in first] if first else []

    def _past(self, now: float) -> list[Started]:
        found = [entry for entry in _ENTRY.iter_unpack(self._entries) if entry[2] and 0.0 < entry[1] <= now]
        return [Started(self._name(mark), id.decode("ascii", "replace"), deadline) for id, deadline, mark in found]

    # ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _note(self, queue: str) -> int:
        """Write a queue's name down, once. Its mark is the place behind its name, never 0; 0 where there is no room left."""
        name, used = queue.encode("utf-8", "surrogatepass"), self._counts[_NAMES_USED]
        end = used + _NAME.size + len(name)
        mark = end if end <= NAMES_BYTES else 0
        if mark:
            _NAME.pack_into(self._names, used, len(name))
            self._names[used + _NAME.size : end] = name
            self._counts[_NAMES_USED] = end
        self._queues[queue] = mark
        return mark

    def _name(self, mark: int) -> str:
        start = 0
        while start < NAMES_BYTES:
            end = start + _NAME.size + _NAME.unpack_from(self._names, start)[0]
            if end == mark:
                return bytes(self._names[start + _NAME.size : end]).decode("utf-8", "surrogatepass")
            if end > mark:
                break
            start = end
        raise ValueError(f"there is no queue with the mark {mark}")


def size(capacity: int) -> int:
    """Bytes that a board of so many slots takes."""
    return _HEAD_BYTES + NAMES_BYTES + (capacity + SPARE + 1) * _ENTRY.size
