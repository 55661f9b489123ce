"""What one runner is to do, whom it tells, and how many lanes it may keep open meanwhile."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pgqueue.completer import Settlement
from pgqueue.context import Claimed
from pgqueue.definition import TaskType
from pgqueue.heart import Identity
from pgqueue.settings import Settings

LANES = 2
"""While one waits for the server, tasks of the other run."""
TWO_LANES_PEERS_MAX = 4
ONE_LANE_PEERS_MAX = 16
"""Up to so many runner processes: a row that another lane has locked costs every scan something."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one runner is to do. `weights` None: all queues, later ones included; `types` are canonical names.

    patience_seconds: how long a row lock may stand for a claim; 0: every task is leased at once.
    `suspects_only`: run the tasks that crashed their process before, one at a time, until none is left.
    """

    id: uuid.UUID
    name: str
    concurrency: int
    weights: dict[str, int] | None
    types: list[str]
    drain: bool
    patience_seconds: float = 0.0
    suspects_only: bool = False


@dataclass(frozen=True, slots=True)
class Observer:
    """Whom to tell what happens, for a screen; called on the runner's loop, so it must be quick."""

    started: Callable[[Claimed], None] | None = None
    settled: Callable[[Settlement, bool], None] | None = None


def lanes_that_pay(peers: int) -> int:
    """How many lanes a process may keep open, beside so many runner processes; 0: none, every claim is leased."""
    if peers <= TWO_LANES_PEERS_MAX:
        return LANES
    return 1 if peers <= ONE_LANE_PEERS_MAX else 0


def always_leased(types: Sequence[TaskType[Any]]) -> list[str]:
    """Types whose attempts own their row while they run: another process settles or repeats them, or they asked for it."""
    return [task_type.name for task_type in types if task_type.execution == "process" or task_type.claim == "lease"]


def least_batch_size(types: Sequence[TaskType[Any]]) -> int:
    """What a slot is worth before anything has run: as many tasks as it could take, whatever the claim brings."""
    return min((task_type.batch_size or 1 for task_type in types), default=1)


def retentions(types: Sequence[TaskType[Any]]) -> dict[str, Any]:
    return {task_type.name: task_type.retention for task_type in types if task_type.retention is not None}


def identity(assignment: Assignment, settings: Settings) -> Identity:
    """As what a runner without a supervisor stands in the table of runners."""
    return Identity(
        id=assignment.id,
        name=assignment.name,
        kind="runner",
        host=socket.gethostname(),
        pid=os.getpid(),
        version=metadata.version("pgqueue-tasks"),
        app=settings.application(),
        queues=None if assignment.weights is None else list(assignment.weights),
        types=assignment.types,
        concurrency=assignment.concurrency,
    )
