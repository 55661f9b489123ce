"""`pgqueue up`: everything for development in one process: a server, a runner, a scheduler, and what happens on screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pgqueue.cli.opening import settings_of, with_tasks
from pgqueue.cli.output import Dsn, Schema, Tasks

if TYPE_CHECKING:
    from pgqueue.settings import Settings


def up(
    tasks: Tasks = None,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", metavar="NAME[=WEIGHT]", help="Queues to serve; repeatable (all).")
    ] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", metavar="N", help="Tasks that run at a time (10).")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Enqueue example tasks now and then; with --tasks examples.tasks.")
    ] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Run everything here, for development: a runner and a scheduler, on the embedded PostgreSQL if there is no DATABASE_URL.

    Ctrl-C finishes what runs and stops; a second one stops at once.

    Example: [bold]pgqueue up --tasks myapp.tasks[/bold]
    """
    from pgqueue.cli.development import Development
    from pgqueue.loops import drive
    from pgqueue.runner import queue_weights
    from pgqueue.scheduler import covers

    settings = with_tasks(settings_of(dsn, schema, tasks, concurrency=concurrency))
    development = Development(
        settings,
        queues=None if not queue else queue_weights(queue),
        complete=covers(settings.tasks, _configured(dsn, schema).tasks),
        demo=demo,
    )
    drive(development.run())


def _configured(dsn: str | None, schema: str | None) -> Settings:
    """The settings without --tasks: a flag that names fewer modules must not disable the others' schedules."""
    return settings_of(dsn, schema)
