"""`pgqueue audit`: who did what."""

from __future__ import annotations

import json as documents
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pgqueue.cli.opening import opened, settings_of
from pgqueue.cli.output import Dsn, Json, Schema, console, emit, say, table, when
from pgqueue.durations import parse_duration
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from pgqueue.records import AuditPage


def audit(
    object: Annotated[
        str | None, typer.Option("--object", metavar="KIND[:NAME]", help="What it was done to: queue:mail, task:ID, lock.")
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="NAME", help="Who did it.")] = None,
    door: Annotated[str | None, typer.Option("--door", metavar="DOOR", help="cli, api or dashboard.")] = None,
    action: Annotated[str | None, typer.Option("--action", metavar="VERB", help="cancel, configure, release …")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From this instant on, with its offset; or so long ago: 2h.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Up to 1,000.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", metavar="ID", help="Go on where the page before ended.")] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Show who did what to tasks, queues, schedules, types, runners and locks, newest first.

    Example: [bold]pgqueue audit --object queue:mail --since 2d[/bold]
    """
    with opened(settings_of(dsn, schema)) as database:
        now = database.rows(database.sql.clock())[0][0]
        page = database.queue.audit(
            object=object,
            actor=actor,
            door=door,
            action=action,
            since=None if since is None else _instant(since, now),
            limit=limit,
            cursor=cursor,
        )
    if json:
        emit({"records": [record.as_json() for record in page], "cursor": page.cursor})
    else:
        _show(page, now)


def _show(page: AuditPage, now: datetime) -> None:
    from rich.text import Text

    result = table("when", "actor", "door", "action", "object", "details")
    for record in page:
        details = documents.dumps(
            {name: value for name, value in record.details.items() if value is not None}, ensure_ascii=False
        )
        texts = (record.actor, record.door, record.action, record.object, details)
        result.add_row(when(record.at, now), *(Text(text) for text in texts))
    console().print(result if page.records else "nothing was written down")
    if page.cursor is not None:
        say(f"there are more: --cursor {page.cursor}")


def _instant(text: str, now: datetime) -> datetime:
    """An instant as it is written, or so long before now."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass  # then it is a length of time
    try:
        return now - parse_duration(text)
    except (ConfigurationError, OverflowError) as error:
        raise ConfigurationError(
            f"--since takes an instant such as 2030-01-31T09:30+01:00 or a length of time such as 2h, not {text!r}"
        ) from error
