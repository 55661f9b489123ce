"""`pgqueue dead`: the dead tasks; list, show, retry, purge and count them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgqueue.cli.changing import Id, Ids, Yes, each, refused
from pgqueue.cli.opening import opened, settings_of
from pgqueue.cli.output import EPILOG, EXIT_FAILED, Dsn, Json, Schema, emit, give_up, say

if TYPE_CHECKING:
    from pgqueue.cli.opening import Opened

app = typer.Typer(help="Look at dead tasks, retry and purge them.", no_args_is_help=True, epilog=EPILOG)

OfType = Annotated[str | None, typer.Option("--type", metavar="NAME", help="Only this task type.")]
InQueue = Annotated[str | None, typer.Option("--queue", metavar="NAME", help="Only this queue.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Only with this tag; repeatable: with all of them.")]
LINES_SHOWN = 20
OlderThan = Annotated[
    str | None, typer.Option("--older-than", metavar="TIME", help="Only those dead for so long at least: 30s, 5m, 2h, 7d.")
]


@app.command("list")
def list_dead(
    type: OfType = None,
    queue: InQueue = None,
    tag: Tags = None,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Up to 1,000.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", metavar="ID", help="Go on where the page before ended.")] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """List dead tasks, newest first.

    Example: [bold]pgqueue dead list --type SendEmail[/bold]
    """
    from pgqueue.cli import screens

    with opened(settings_of(dsn, schema)) as database:
        page = database.queue.dead.list(**_which(database, type, queue, tag, older_than), limit=limit, cursor=cursor)
        now = database.rows(database.sql.clock())[0][0]
    if json:
        emit({"tasks": [task.as_json() for task in page], "cursor": page.cursor})
    else:
        screens.task_table(page, now)


@app.command("show")
def show(id: Id, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Show everything about a dead task, with the traceback of each failed attempt. Exits with 1 if it is not dead.

    Example: [bold]pgqueue dead show 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11[/bold]
    """
    from pgqueue.cli import screens

    with opened(settings_of(dsn, schema)) as database:
        task, attempts, logs = (
            database.queue.dead.get(id),
            database.queue.attempts(id),
            database.queue.logs(id, limit=LINES_SHOWN),
        )
        now = database.rows(database.sql.clock())[0][0]
    if json:
        emit(None if task is None else screens.task_document(task, attempts, logs))
    if task is None:
        say(f"task {id} is not among the dead")
        raise typer.Exit(EXIT_FAILED)
    if not json:
        screens.task_sheet(task, attempts, logs, now)


@app.command("retry")
def retry(ids: Ids, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Make dead tasks ready again, with new attempts. Exits with 1 if one could not be.

    Example: [bold]pgqueue dead retry 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11[/bold]
    """
    with opened(settings_of(dsn, schema)) as database:
        each(ids, lambda id: database.queue.dead.retry(id), "ready", json=json)


@app.command("retry-all")
def retry_all(
    type: OfType = None,
    queue: InQueue = None,
    tag: Tags = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Make every dead task that matches ready again, but for those whose unique key is taken.

    Example: [bold]pgqueue dead retry-all --type SendEmail --yes[/bold]
    """
    with opened(settings_of(dsn, schema)) as database, refused():
        which = _which(database, type, queue, tag, older_than)
        if not yes:
            _ask(database, which, "Retry", "nothing was retried")
        outcome = database.queue.dead.retry_all(**which)
    if json:
        emit(outcome.as_json())
    else:
        print(f"{outcome.retried:,} ready again; {outcome.skipped:,} skipped, since their unique key is taken")


@app.command("purge")
def purge(
    type: OfType = None,
    queue: InQueue = None,
    tag: Tags = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Delete the dead tasks that match for ever. Which must be said: [bold]--older-than 0s[/bold] means all.

    Example: [bold]pgqueue dead purge --older-than 7d[/bold]
    """
    if not (type or queue or tag or older_than):
        give_up("say which: --type, --queue, --tag or --older-than; --older-than 0s means all")
    with opened(settings_of(dsn, schema)) as database:
        which = _which(database, type, queue, tag, older_than)
        if not yes:
            _ask(database, which, "Delete for ever", "nothing was deleted")
        count = database.queue.dead.purge(**which)
    if json:
        emit({"purged": count})
    else:
        print(f"purged {count:,} dead {_tasks(count)}")


@app.command("count")
def count(
    type: OfType = None,
    queue: InQueue = None,
    tag: Tags = None,
    older_than: OlderThan = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Say how many dead tasks match, and for how long the oldest has been dead.

    Example: [bold]pgqueue dead count --queue mail[/bold]
    """
    from pgqueue.cli.output import brief

    with opened(settings_of(dsn, schema)) as database:
        which = _which(database, type, queue, tag, older_than)
        number, oldest = database.queue.dead.count(**which), database.queue.dead.oldest_age(**which)
    if json:
        emit({"count": number, "oldest_seconds": None if oldest is None else oldest.total_seconds()})
    else:
        print(f"{number:,} dead {_tasks(number)}" + ("" if oldest is None else f", the oldest for {brief(oldest)}"))


def _which(
    database: Opened, type: str | None, queue: str | None, tags: list[str] | None, older_than: str | None
) -> dict[str, Any]:
    from pgqueue.cli.lookup import canonical_type
    from pgqueue.durations import parse_duration

    return {
        "type": canonical_type(database, type),
        "queue": queue,
        "tags": tags or None,
        "older_than": None if older_than is None else parse_duration(older_than),
    }


def _ask(database: Opened, which: dict[str, Any], verb: str, otherwise: str) -> None:
    from pgqueue.cli.cancelling import confirm

    number = database.queue.dead.count(**which)
    confirm(f"{verb} {number:,} dead {_tasks(number)}?", otherwise)


def _tasks(count: int) -> str:
    return "task" if count == 1 else "tasks"
