"""`pgqueue queues`: which there are, and how they are worked off."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from pgqueue.cli.opening import opened, settings_of
from pgqueue.cli.output import EPILOG, Dsn, Json, Schema, console, emit, give_up, table
from pgqueue.durations import format_duration, parse_duration

app = typer.Typer(help="Look at queues, and set how they are worked off.", no_args_is_help=True, epilog=EPILOG)


@app.command("list")
def list_queues(dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """List the queues that hold unfinished tasks or have settings.

    Example: [bold]pgqueue queues list[/bold]
    """
    from rich.text import Text

    with opened(settings_of(dsn, schema)) as database:
        found = database.queue.queues()
    if json:
        emit({"queues": [queue.as_json() for queue in found]})
        return
    result = table("queue", "aging", "unfinished tasks")
    for queue in found:
        result.add_row(Text(queue.name), _shown(queue.aging), "yes" if queue.has_tasks else "none")
    console().print(result if found else "no queue holds tasks, and none has settings")


@app.command("set")
def configure(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The queue; it need not hold tasks yet.", show_default=False)],
    aging: Annotated[
        str | None,
        typer.Option("--aging", metavar="TIME", help="A task gains one step of priority for each such wait: 30s, 5m; or none."),
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Set how a queue is worked off. What is not named stays as it is; runners follow within a few seconds.

    Example: [bold]pgqueue queues set mail --aging 1m[/bold]

    Example: [bold]pgqueue queues set mail --aging none[/bold]
    """
    if aging is None:
        give_up("there is nothing to set: give --aging, such as --aging 1m or --aging none")
    wanted = None if aging == "none" else parse_duration(aging)
    with opened(settings_of(dsn, schema)) as database:
        queue = database.queue.configure(name, aging=wanted)
    if json:
        emit(queue.as_json())
    else:
        print(f"{queue.name}: aging {_shown(queue.aging)}")


def _shown(aging: timedelta | None) -> str:
    return "none" if aging is None else format_duration(aging)
