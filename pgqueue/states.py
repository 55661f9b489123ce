"""Where a task may stand, and how it may move: the one place that says so.

Docs draw their diagram from `MOVES` (`diagram`), the SQL moves only along it, and a test tries every other move.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Where a task stands; the same nine words in SQL, Python and on the command line."""

    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"
    IGNORED = "ignored"
    DELETED = "deleted"


WAITING = frozenset({Status.SCHEDULED, Status.BLOCKED, Status.READY})
UNFINISHED = WAITING | {Status.RUNNING}
FINISHED = frozenset(Status) - UNFINISHED

BY_HAND = frozenset({Status.SUCCEEDED, Status.DEAD, Status.CANCELLED, Status.DELETED})
"""Where somebody may put a task that waits: it ends without having been run."""

MOVES: dict[Status, frozenset[Status]] = {
    Status.SCHEDULED: frozenset({Status.READY, Status.BLOCKED, *BY_HAND}),
    Status.BLOCKED: frozenset({Status.READY, Status.RUNNING, Status.SCHEDULED, *BY_HAND}),
    Status.READY: frozenset({Status.RUNNING, Status.BLOCKED, Status.SCHEDULED, *BY_HAND}),
    Status.RUNNING: frozenset(
        {Status.READY, Status.SCHEDULED, Status.BLOCKED, Status.SUCCEEDED, Status.DEAD, Status.CANCELLED, Status.IGNORED}
    ),
    Status.DEAD: frozenset({Status.READY}),
    Status.DELETED: frozenset({Status.READY, Status.SCHEDULED}),
    Status.SUCCEEDED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.IGNORED: frozenset(),
}


def may_move(*, before: Status, after: Status) -> bool:
    """Whether a task that stands at `before` may be moved to `after` in one step."""
    return after in MOVES[before]


def diagram() -> str:
    """The moves as a Mermaid state diagram, in the order of `Status`."""
    lines = ["stateDiagram-v2", "    [*] --> scheduled: delay or at", "    [*] --> ready"]
    lines += [f"    {before} --> {after}" for before in Status for after in Status if after in MOVES[before]]
    lines += [f"    {status} --> [*]" for status in Status if status in FINISHED]
    return "\n".join(lines)
