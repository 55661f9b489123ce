"""Tasks on the screen: the table of `task list` and the sheet of `task show`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from pgqueue.cli.output import STATUS_STYLES, brief, console, precise, pretty_json, table, when
from pgqueue.doors import one_line
from pgqueue.states import UNFINISHED, Status

if TYPE_CHECKING:
    from pgqueue.records import AttemptRecord, LogRecord, TaskPage, TaskRecord

NARROW = 110
"""Below so many columns a table leaves out what may be done without."""
COLUMNS: dict[str, dict[str, Any]] = {
    "id": {"min_width": 36},
    "status": {"min_width": 9},
    "type": {"max_width": 40},
    "queue": {"max_width": 24},
    "priority": {"justify": "right"},
    "when": {"min_width": 7},
    "try": {"justify": "right"},
    "reason": {"style": "bright_black"},
}
LEVEL_STYLES = {"debug": "bright_black", "info": "green", "warning": "yellow", "error": "red"}
DISPENSABLE = ("priority", "try", "reason")


def task_table(page: TaskPage, now: datetime) -> None:
    """Ids are never cut: they are there to be copied."""
    screen = console()
    if not page.tasks:
        screen.print("no tasks match", style="bright_black")
        return
    columns = [name for name in COLUMNS if screen.width >= NARROW or name not in DISPENSABLE]
    result = table()
    for name in columns:
        result.add_column(name, no_wrap=True, overflow="ellipsis", **COLUMNS[name])
    for task in page.tasks:
        cells = _cells(task, now)
        result.add_row(*(cells[name] for name in columns))
    screen.print(result)
    if page.cursor is not None:
        screen.print(f"more: --cursor {page.cursor}", style="bright_black")


def _cells(task: TaskRecord, now: datetime) -> dict[str, str | Text]:
    return {
        "id": str(task.id),
        "status": _status(task.status),
        "type": Text(one_line(task.type)),
        "queue": Text(one_line(task.queue)),
        "priority": str(task.priority),
        "when": _when(task, now),
        "try": str(task.attempt or ""),
        "reason": Text(_reason(task)),
    }


def task_document(task: TaskRecord, attempts: list[AttemptRecord], logs: list[LogRecord]) -> dict[str, Any]:
    """The sheet as JSON."""
    return {
        **task.as_json(),
        "attempts": [attempt.as_json() for attempt in attempts],
        "logs": [line.as_json() for line in logs],
    }


def task_sheet(task: TaskRecord, attempts: list[AttemptRecord], logs: list[LogRecord], now: datetime) -> None:
    """Everything that is stored about a task."""
    screen = console()
    screen.print(Text.assemble((task.type, "bold"), "  ", str(task.id), "  ", _status(task.status)), soft_wrap=True)
    screen.print()
    for name, value in _facts(task, now).items():
        if value not in (None, ""):
            screen.print(Text.assemble((f"{name:<10}", "bright_black"), value), soft_wrap=True)
    _document(screen, "payload", task.payload)
    if task.status is Status.SUCCEEDED:
        _document(screen, "result", task.result)
    for attempt in attempts:
        _attempt(screen, attempt, now)
    if logs:
        screen.print()
        screen.print("log", style="bright_black")
        for line in logs:
            screen.print(log_line(line), soft_wrap=True)


def log_line(line: LogRecord) -> Text:
    """`12:00:01.250  warning  40 %  rendering`."""
    done = "" if line.progress is None else f"{line.progress:.0%} "
    first, *more = (_printable(part) for part in (line.message.splitlines() or [""]))
    instant = line.logged_at.astimezone().isoformat(sep=" ", timespec="milliseconds")[11:23]
    return Text.assemble(
        (f"    {instant}  ", "bright_black"),
        (f"{line.level:<7}  ", LEVEL_STYLES[line.level]),
        (done, "bold"),
        "\n".join([first, *(f"    {part}" for part in more)]),
    )


def _facts(task: TaskRecord, now: datetime) -> dict[str, str | None]:
    return {
        "queue": f"{task.queue}, priority {task.priority}",
        "created": _instant(task.created_at, now),
        "mature": _instant(task.maturity_at, now) if task.maturity_at != task.created_at else None,
        "started": _instant(task.started_at, now) + _runner(task) if task.started_at else None,
        "finished": _instant(task.finished_at, now) if task.finished_at else None,
        "progress": None if task.progress is None else f"{task.progress:.0%}",
        "attempts": f"{task.attempt}{f', and {task.crashes} that crashed' if task.crashes else ''}",
        "tags": ", ".join(task.tags),
        "headers": one_line(pretty_json(task.headers)) if task.headers else None,
        "reason": one_line(task.reason or ""),
        "lineage": _lineage(task.lineage),
    }


def _lineage(lineage: dict[str, Any]) -> str:
    """What was done with it by hand, in a few words; `--json` has it all."""
    retries, copies = lineage.get("retries") or (), lineage.get("copies") or ()
    parts = [
        f"was dead {len(retries)} times before" if len(retries) > 1 else "was dead once before" if retries else "",
        f"a copy of {lineage['copied_from'].get('id')}" if isinstance(lineage.get("copied_from"), dict) else "",
        f"copies: {', '.join(map(str, copies))}" if copies else "",
        f"moved from queue {lineage['moved_from']}" if "moved_from" in lineage else "",
        "marked by hand" if "marked" in lineage else "",
        "deleted and restored" if "restored_at" in lineage else "",
    ]
    return one_line("; ".join(part for part in parts if part))


def _attempt(screen: Console, attempt: AttemptRecord, now: datetime) -> None:
    screen.print()
    took = f", after {precise(attempt.finished_at - attempt.started_at)}" if attempt.started_at else ""
    head = Text.assemble((f"attempt {attempt.attempt} failed", "bold red"), f"  {_instant(attempt.finished_at, now)}{took}")
    screen.print(head, soft_wrap=True)
    lines = (attempt.traceback or f"{attempt.error_type}: {attempt.error}").rstrip().splitlines()
    for line in lines:
        screen.print(Text(f"    {_printable(line)}"), soft_wrap=True)


def _document(screen: Console, name: str, value: Any) -> None:
    screen.print()
    screen.print(name, style="bright_black")
    if isinstance(value, str):
        screen.print(Text(f"    {one_line(pretty_json(value))}"), soft_wrap=True)
        return
    from rich.json import JSON
    from rich.padding import Padding

    screen.print(Padding(JSON(pretty_json(value)), (0, 0, 0, 4)), soft_wrap=True)


def _status(status: Status) -> Text:
    return Text(status, style=STATUS_STYLES[status])


def _when(task: TaskRecord, now: datetime) -> str:
    """The one time that matters at this status."""
    if task.status is Status.SCHEDULED:
        return when(task.maturity_at, now) if task.maturity_at > now else f"due {when(task.maturity_at, now)}"
    if task.status is Status.RUNNING and task.started_at:
        return f"for {brief(now - task.started_at)}"
    if task.status in UNFINISHED:
        return f"waits {brief(now - max(task.maturity_at, task.created_at))}"
    return when(task.finished_at, now)


def _instant(instant: datetime, now: datetime) -> str:
    return f"{instant.astimezone().isoformat(sep=' ', timespec='milliseconds')} ({when(instant, now)})"


def _runner(task: TaskRecord) -> str:
    return f", by {task.runner_id}" if task.runner_id else ""


def _reason(task: TaskRecord) -> str:
    return one_line((task.reason or "").strip().partition("\n")[0])


def _printable(line: str) -> str:
    """A traceback's line as it is, but for control characters; its indentation stays."""
    bare = line.lstrip(" ")
    return " " * (len(line) - len(bare)) + "".join(part if part.isprintable() else repr(part)[1:-1] for part in bare)
