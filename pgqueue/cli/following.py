"""`pgqueue task show --follow`: what a task logs, line by line, until it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.text import Text

from pgqueue.cli.output import STATUS_STYLES, console
from pgqueue.cli.screens import log_line
from pgqueue.states import UNFINISHED

if TYPE_CHECKING:
    from uuid import UUID

    from pgqueue.cli.opening import Opened
    from pgqueue.records import TaskRecord

POLL_SECONDS = 0.5
PAGE = 1_000
SETTLE_POLLS = 2
"""The last lines of an attempt may be written a moment after its outcome."""


def follow(database: Opened, task_id: UUID, after: int | None) -> None:
    """Print the lines that come after this one, and each change of status, until the task has ended and said its last."""
    screen = console()
    said: str | None = None
    ended_polls = 0
    while True:
        task = database.queue.get(task_id)
        after = _print_lines(database, task_id, after)
        standing = "is not stored any more" if task is None else _standing(task)
        if standing != said:
            said = standing
            style = "bright_black" if task is None else STATUS_STYLES[task.status]
            screen.print(Text(standing, style=style), soft_wrap=True)
        if task is None or task.status not in UNFINISHED:
            ended_polls += 1
        if ended_polls > SETTLE_POLLS:
            return
        time.sleep(POLL_SECONDS)


def _print_lines(database: Opened, task_id: UUID, after: int | None) -> int:
    """Print what is new; the id of the last line."""
    screen, last = console(), after or 0
    while lines := database.queue.logs(task_id, after=last, limit=PAGE):
        for line in lines:
            screen.print(log_line(line), soft_wrap=True)
        last = lines[-1].id
    return last


def _standing(task: TaskRecord) -> str:
    return f"{task.status}, attempt {task.attempt}" if task.attempt else str(task.status)
