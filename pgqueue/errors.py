"""Every error pgqueue raises, so that one `except` can catch them all.

    PgQueueError
    ├── ConfigurationError        an option, a setting or a declaration is wrong: fix the program
    │   ├── UnknownTask           no task type of that name is registered here
    │   ├── DiscoveryError        a module of tasks could not be imported
    │   └── EmbeddedError         the embedded PostgreSQL is missing or did not start
    ├── PayloadError              a payload or result cannot be stored, or cannot be read back
    ├── SchemaError               the database is not migrated, or is newer than this program
    ├── DatabaseUnavailable       PostgreSQL did not answer within the deadline
    ├── EnqueueConflict           the holder of a key kept coming and going; nothing was inserted
    ├── LeaseLost                 this attempt no longer owns its task; nothing it wrote was kept
    ├── LockLost                  a named lock was not held until the end of its block
    ├── LockTimeout               a named lock did not come free in time (also a TimeoutError)
    ├── TaskNotFound              no task of that id is stored (it may have been purged)
    ├── ScheduleNotFound          no schedule of that name is stored
    ├── KeyTaken                  an unfinished task holds the unique key; `holder` says which
    ├── WrongStatus               the task stands where that cannot be done; `status` says where
    │   ├── TaskBusy              it runs, or somebody holds it just now
    │   └── TaskFinished          it has ended
    ├── ResultTimeout             the task did not finish in time (also a TimeoutError)
    └── TaskUnsuccessful          the task ended without a result
        ├── TaskDead              it used up its tries
        ├── TaskCancelled         it was cancelled
        ├── TaskIgnored           it asked to be ignored
        └── TaskDeleted           somebody deleted it

The four that a task raises on purpose (`Snooze`, `Ignore`, `Cancel`, `RetryIn`) are no errors: they live in `outcomes.py`.
A message says what failed, which task, and what to do.
"""

from __future__ import annotations

import uuid

from pgqueue.states import Status


class PgQueueError(Exception):
    """Root of every error that pgqueue raises."""


class ConfigurationError(PgQueueError):
    """An option, a setting or a declaration is wrong. Raised as early as it can be known."""


class UnknownTask(ConfigurationError):
    """No task type of that name is registered in this program."""


class DiscoveryError(ConfigurationError):
    """A module that should hold tasks could not be imported; nothing was started."""


class EmbeddedError(ConfigurationError):
    """The embedded PostgreSQL is not installed, or could not be started."""


class PayloadError(PgQueueError):
    """A payload or a result cannot be stored as JSON, is too large, or does not validate."""


class SchemaError(PgQueueError):
    """The schema is not there, is older than this program needs, or newer than it knows."""


class DatabaseUnavailable(PgQueueError):
    """PostgreSQL did not answer within the deadline. Whether the statement ran is unknown."""


class EnqueueConflict(PgQueueError):
    """The holder of a unique key kept coming and going while we inserted; nothing was inserted."""


class LeaseLost(PgQueueError):
    """The attempt no longer owns its task: it was rescued, cancelled or settled elsewhere."""


class LockLost(PgQueueError):
    """A named lock was not held until the end: its time to live passed, or somebody released it by force."""


class LockTimeout(PgQueueError, TimeoutError):
    """A named lock did not come free within the timeout."""


class TaskNotFound(PgQueueError):
    """No task of that id is stored: it never committed, or its history was dropped."""


class ScheduleNotFound(PgQueueError):
    """No schedule of that name is stored for that app."""


class KeyTaken(PgQueueError):
    """An unfinished task holds the unique key that this one needs. `holder` is its id; nothing was changed."""

    def __init__(self, message: str, *, holder: uuid.UUID) -> None:
        super().__init__(message)
        self.holder = holder


class WrongStatus(PgQueueError):
    """The task stands where what was asked for cannot be done. `status` says where, if that is known; nothing was changed."""

    def __init__(self, message: str, *, status: Status | None) -> None:
        super().__init__(message)
        self.status = status


class TaskBusy(WrongStatus):
    """A runner has the task: a claim came first. Or somebody held its row for as long as we waited."""


class TaskFinished(WrongStatus):
    """The task has ended; what was asked for needs one that has not."""


class ResultTimeout(PgQueueError, TimeoutError):
    """The task did not finish within the timeout. It goes on regardless."""


class TaskUnsuccessful(PgQueueError):
    """The task ended without a result. `error` is what was stored about the reason, or None."""

    def __init__(self, message: str, *, error: str | None = None) -> None:
        super().__init__(message)
        self.error = error


class TaskDead(TaskUnsuccessful):
    """The task used up its tries, or cannot be run at all."""


class TaskCancelled(TaskUnsuccessful):
    """The task was cancelled, by hand or because it expired."""


class TaskIgnored(TaskUnsuccessful):
    """The task raised `Ignore`: it ended on purpose without a result."""


class TaskDeleted(TaskUnsuccessful):
    """The task was deleted by hand."""
