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
    KeyTaken,
    LeaseLost,
    LockLost,
    LockTimeout,
    PayloadError,
    PgQueueError,
    ResultTimeout,
    ScheduleNotFound,
    SchemaError,
    TaskBusy,
    TaskCancelled,
    TaskDead,
    TaskDeleted,
    TaskFinished,
    TaskIgnored,
    TaskNotFound,
    TaskUnsuccessful,
    UnknownTask,
    WrongStatus,
)
from pgqueue.hooks import on_runner_start, on_runner_stop
from pgqueue.outcomes import Cancel, Ignore, RetryIn, Snooze
from pgqueue.records import (
    AttemptRecord,
    AuditPage,
    AuditRecord,
    LockPage,
    LockRecord,
    LogRecord,
    QueueRecord,
    RetriedAll,
    TaskPage,
    TaskRecord,
    TypeRecord,
)
from pgqueue.registry import registry, set_default_queue, task
from pgqueue.requests import Unique
from pgqueue.retry import Retry
from pgqueue.schedule_records import Schedule, SchedulePage, SlotRecord
from pgqueue.states import Status
from pgqueue.task import Task
from pgqueue.task_hooks import middleware, on_dead, on_error, on_failure, on_retry, on_start, on_success

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, AsyncTaskHandle, Queue, TaskHandle
    from pgqueue.lock import AsyncLock, Lock
    from pgqueue.recurring import Scheduler
    from pgqueue.settings import Settings
    from pgqueue.worker import Observer, Runner, RunnerStats

_LAZY = {
    "AsyncLock": "pgqueue.lock",
    "AsyncQueue": "pgqueue.client",
    "AsyncTaskHandle": "pgqueue.client",
    "Lock": "pgqueue.lock",
    "Queue": "pgqueue.client",
    "TaskHandle": "pgqueue.client",
    "Observer": "pgqueue.worker",
    "Runner": "pgqueue.worker",
    "RunnerStats": "pgqueue.worker",
    "Scheduler": "pgqueue.recurring",
    "Settings": "pgqueue.settings",
}

__all__ = [
    "AsyncLock", "AsyncQueue", "AsyncTaskHandle", "AttemptRecord", "AuditPage", "AuditRecord", "Cancel", "ConfigurationError",
    "Context", "DatabaseUnavailable", "DiscoveryError", "EmbeddedError", "EnqueueConflict", "Ignore", "KeyTaken", "LeaseLost",
    "Lock", "LockLost", "LockPage", "LockRecord", "LockTimeout", "LogRecord", "Observer", "PayloadError", "PgQueueError",
    "Queue", "QueueRecord", "ResultTimeout", "RetriedAll", "Retry", "RetryIn", "Runner", "RunnerStats", "Schedule",
    "ScheduleNotFound", "SchedulePage", "Scheduler", "SchemaError", "Settings", "SlotRecord", "Snooze", "Status", "Task",
    "TaskBusy", "TaskCancelled", "TaskDead", "TaskDeleted", "TaskFinished", "TaskHandle", "TaskIgnored", "TaskNotFound",
    "TaskPage", "TaskRecord", "TaskUnsuccessful", "TypeRecord", "Unique", "UnknownTask", "WrongStatus", "middleware", "on_dead",
    "on_error", "on_failure", "on_retry", "on_runner_start", "on_runner_stop", "on_start", "on_success", "registry",
    "set_default_queue", "task",
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
