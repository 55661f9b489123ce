"""How the command line speaks: a document or a table on stdout, messages on stderr, and times as people say them."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pgqueue.doors import EXIT_REFUSED, one_line
from pgqueue.states import Status

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

EXIT_FAILED = 1
EPILOG = (
    "Exit codes: 0 done; 1 what was asked for failed or is not there; 2 wrong usage or configuration, no database, or a schema "
    "that does not fit. With --json stdout holds exactly one JSON document."
)
PIPE_WIDTH = 200
"""Columns where nobody looks: nothing is cut off for a program that reads."""

Dsn = Annotated[
    str | None, typer.Option("--dsn", metavar="URL", help="The database; default DATABASE_URL, else the embedded one.")
]
Schema = Annotated[str | None, typer.Option("--schema", metavar="NAME", help="The schema of pgqueue's tables.")]
Tasks = Annotated[list[str] | None, typer.Option("--tasks", metavar="MODULE", help="Modules that define tasks; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

STATUS_STYLES = {
    Status.SCHEDULED: "cyan",
    Status.BLOCKED: "yellow",
    Status.READY: "blue",
    Status.RUNNING: "magenta",
    Status.SUCCEEDED: "green",
    Status.DEAD: "bold red",
    Status.CANCELLED: "yellow",
    Status.IGNORED: "bright_black",
    Status.DELETED: "bright_black",
}


def console() -> Console:
    """Stdout; as wide as the terminal, or wide enough for whole lines where it is none."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def table(*headers: str, **options: Any) -> Table:
    """A table with nothing but a rule below its head."""
    from rich import box
    from rich.table import Table

    return Table(*headers, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style="bold", **options)


def emit(document: Any) -> None:
    """The one JSON document of a verb."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def say(line: str) -> None:
    """A message, on stderr."""
    print(f"pgqueue: {one_line(line)}", file=sys.stderr, flush=True)


def give_up(*lines: str) -> NoReturn:
    """Wrong usage: say why, with what belongs to it below, and exit with 2."""
    say(lines[0])
    for line in lines[1:]:
        print(line, file=sys.stderr)
    raise typer.Exit(EXIT_REFUSED)


def pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def brief(length: timedelta) -> str:
    """A length of time in a few characters, by its largest units: `0.4s`, `45s`, `1m30s`, `12m`, `3h`, `2d`. Never negative."""
    seconds = max(0.0, length.total_seconds())
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 59.5:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s" if rest and minutes < 10 else f"{minutes}m"
    return f"{minutes / 60:.0f}h" if minutes < 48 * 60 else f"{minutes / 1440:.0f}d"


def precise(length: timedelta) -> str:
    """`12ms`, `1.02s`, `45s`."""
    seconds = length.total_seconds()
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.2f}s" if seconds < 9.995 else brief(length)


def when(instant: datetime | None, now: datetime) -> str:
    """`in 5m` or `3h ago`."""
    if instant is None:
        return "never"
    return f"in {brief(instant - now)}" if instant > now else f"{brief(now - instant)} ago"
