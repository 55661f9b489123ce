"""pgqueue: a task queue on PostgreSQL. Tasks are classes, claimed with FOR UPDATE SKIP LOCKED; schedules enqueue by the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgqueue.context import Context
from pgqueue.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    DiscoveryError,
    EmbeddedError,
    EnqueueConflict,
    LeaseLost,
    PayloadError,
    PgQueueError,
    ResultTimeout,
    SchemaError,
    TaskCancelled,
    TaskDead,
    TaskDeleted,
    TaskFinished,
    TaskIgnored,
    TaskNotFound,
    TaskUnsuccessful,
    UnknownTask,
)
from pgqueue.hooks import on_runner_start, on_runner_stop
from pgqueue.outcomes import Cancel, Ignore, RetryIn, Snooze
from pgqueue.records import AttemptRecord, QueueRecord, TaskPage, TaskRecord, TypeRecord
from pgqueue.registry import registry, set_default_queue, task
from pgqueue.requests import Unique
from pgqueue.retry import Retry
from pgqueue.states import Status
from pgqueue.task import Task

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, AsyncTaskHandle, Queue, TaskHandle
    from pgqueue.recurring import Scheduler
    from pgqueue.settings import Settings
    from pgqueue.worker import Observer, Runner, RunnerStats

_LAZY = {
    "AsyncQueue": "pgqueue.client",
    "AsyncTaskHandle": "pgqueue.client",
    "Queue": "pgqueue.client",
    "TaskHandle": "pgqueue.client",
    "Observer": "pgqueue.worker",
    "Runner": "pgqueue.worker",
    "RunnerStats": "pgqueue.worker",
    "Scheduler": "pgqueue.recurring",
    "Settings": "pgqueue.settings",
}

__all__ = [
    "AsyncQueue", "AsyncTaskHandle", "AttemptRecord", "Cancel", "ConfigurationError", "Context", "DatabaseUnavailable",
    "DiscoveryError", "EmbeddedError", "EnqueueConflict", "Ignore", "LeaseLost", "Observer", "PayloadError",
    "PgQueueError", "Queue", "QueueRecord", "ResultTimeout", "Retry", "RetryIn", "Runner", "RunnerStats", "Scheduler",
    "SchemaError", "Settings", "Snooze", "Status", "Task", "TaskCancelled", "TaskDead", "TaskDeleted", "TaskFinished",
    "TaskHandle", "TaskIgnored", "TaskNotFound", "TaskPage", "TaskRecord", "TaskUnsuccessful", "TypeRecord", "Unique",
    "UnknownTask", "on_runner_start", "on_runner_stop", "registry", "set_default_queue", "task",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The clients and the runner are loaded when first asked for: they bring the driver along, and settings what reads them."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'pgqueue' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value
