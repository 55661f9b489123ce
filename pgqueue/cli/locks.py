"""`pgqueue locks`: which named locks are held, and taking one away."""

from __future__ import annotations

from typing import Annotated

import typer

from pgqueue.cli.opening import opened, settings_of
from pgqueue.cli.output import EPILOG, EXIT_FAILED, Dsn, Json, Schema, console, emit, say, table, when

app = typer.Typer(help="Look at named locks, and take one away from its holder.", no_args_is_help=True, epilog=EPILOG)


@app.command("list")
def list_locks(
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Up to 1,000.")] = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", metavar="NAME", help="Go on where the page before ended.")] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """List the named locks that are held, by name.

    Example: [bold]pgqueue locks list[/bold]
    """
    from rich.text import Text

    with opened(settings_of(dsn, schema)) as database:
        page = database.queue.locks.list(limit=limit, cursor=cursor)
        now = database.rows(database.sql.clock())[0][0]
    if json:
        emit({"locks": [lock.as_json() for lock in page], "cursor": page.cursor})
        return
    result = table("lock", "holder")
    for header in ("token", "acquired", "comes free"):
        result.add_column(header, justify="right", no_wrap=True)
    for lock in page:
        acquired, free = when(lock.acquired_at, now), when(lock.expires_at, now)
        result.add_row(Text(lock.name), Text(lock.holder), str(lock.token), acquired, free)
    console().print(result if page.locks else "no lock is held")
    if page.cursor is not None:
        say(f"there are more: --cursor {page.cursor}")


@app.command("release")
def release(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The lock.", show_default=False)],
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Take a lock away from its holder, who is not stopped. Exits with 1 if nobody holds it.

    Example: [bold]pgqueue locks release nightly-report[/bold]
    """
    with opened(settings_of(dsn, schema)) as database:
        lock = database.queue.locks.release(name)
    if json:
        emit(None if lock is None else lock.as_json())
    if lock is None:
        say(f"nobody holds the lock {name!r}")
        raise typer.Exit(EXIT_FAILED)
    if not json:
        print(f"{lock.name}: taken away from {lock.holder}, token {lock.token}")
