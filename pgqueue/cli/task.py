"""`pgqueue task`: list, show, cancel, enqueue, run; changing.py adds what is done to single tasks by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from pgqueue.cli import changing
from pgqueue.cli.opening import opened, settings_of, with_tasks
from pgqueue.cli.output import EPILOG, EXIT_FAILED, Dsn, Json, Schema, Tasks, emit, give_up, say

app = typer.Typer(help="Look at tasks, enqueue, change, cancel and run them.", no_args_is_help=True, epilog=EPILOG)

Status = Annotated[
    list[str] | None, typer.Option("--status", metavar="STATUS", help="scheduled, ready, running, dead …; repeatable.")
]
OfType = Annotated[str | None, typer.Option("--type", metavar="NAME", help="Only this task type.")]
InQueue = Annotated[str | None, typer.Option("--queue", metavar="NAME", help="Only this queue.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Only with this tag; repeatable: with all of them.")]
TypeName = Annotated[str, typer.Argument(metavar="TYPE", help="The task type; case, - and _ do not matter.", show_default=False)]
Payload = Annotated[str | None, typer.Option("--payload", metavar="JSON", help="The payload as a JSON object; fields go on top.")]

# What is no option of ours is a field of the task; what follows `--` always is.
_FIELDS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("list")
def list_tasks(
    status: Status = None,
    type: OfType = None,
    queue: InQueue = None,
    tag: Tags = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Up to 1,000.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", metavar="ID", help="Go on where the page before ended.")] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """List tasks, newest first, finished ones included.

    Example: [bold]pgqueue task list --status dead --type SendEmail[/bold]
    """
    from pgqueue.cli import screens
    from pgqueue.cli.lookup import canonical_type

    with opened(settings_of(dsn, schema)) as database:
        name = canonical_type(database, type)
        page = database.queue.list(status=status or None, type=name, queue=queue, tags=tag or None, limit=limit, cursor=cursor)
        now = database.rows(database.sql.clock())[0][0]
    if json:
        emit({"tasks": [task.as_json() for task in page], "cursor": page.cursor})
    else:
        screens.task_table(page, now)


@app.command("show")
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The task's id.", show_default=False)],
    lines: Annotated[int, typer.Option("--lines", metavar="N", help="So many of its last log lines, up to 1,000.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what it logs, until it ends.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Show everything about a task: payload, progress and log, result, and the traceback of each failed attempt.

    Example: [bold]pgqueue task show 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11 --follow[/bold]
    """
    from pgqueue.cli import following, screens

    if follow and json:
        give_up("--follow prints as it goes, and --json one document: keep one of them")
    with opened(settings_of(dsn, schema)) as database:
        task, attempts = database.queue.get(id), database.queue.attempts(id)
        logs = database.queue.logs(id, limit=lines)
        now = database.rows(database.sql.clock())[0][0]
        if json:
            emit(None if task is None else screens.task_document(task, attempts, logs))
        if task is None:
            say(f"task {id} is not stored: it never committed, or its history was dropped")
            raise typer.Exit(EXIT_FAILED)
        if not json:
            screens.task_sheet(task, attempts, logs, now)
        if follow:
            following.follow(database, task.id, logs[-1].id if logs else None)


@app.command("cancel")
def cancel(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The tasks' ids.", show_default=False)] = None,
    all: Annotated[bool, typer.Option("--all", help="Every unfinished task that matches the filters.")] = False,
    status: Status = None,
    type: OfType = None,
    queue: InQueue = None,
    tag: Tags = None,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Kept with the task.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Cancel tasks: waiting ones at once, running ones by asking them to stop. Exits with 1 if one could not be.

    Example: [bold]pgqueue task cancel 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11 --reason "wrong address"[/bold]

    Example: [bold]pgqueue task cancel --all --type SendEmail --status scheduled[/bold]
    """
    from pgqueue.cli import cancelling

    filters = {"status": status or None, "type": type, "queue": queue, "tags": tag or None}
    if bool(ids) == all or (ids and any(filters.values())):
        give_up("name the tasks by their ids, or all that match: --all with --type, --queue, --status or --tag")
    with opened(settings_of(dsn, schema)) as database:
        if ids:
            cancelling.cancel_named(database, ids, reason, json=json)
        else:
            cancelling.cancel_matching(database, filters, reason, yes=yes, json=json)


@app.command("enqueue", context_settings=_FIELDS)
def enqueue(
    context: typer.Context,
    type: TypeName,
    payload: Payload = None,
    delay: Annotated[
        str | None, typer.Option("--delay", metavar="TIME", help="Not before this long from now: 30s, 5m, 2h.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="ISO", help="Not before this instant, with its offset from UTC.")
    ] = None,
    priority: Annotated[int | None, typer.Option("--priority", metavar="N", help="Higher runs first.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", metavar="NAME", help="Another queue than the type's.")] = None,
    unique: Annotated[bool | None, typer.Option("--unique/--no-unique", help="At most one unfinished task of this type.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="KEY", help="The same key gives the same task.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A label; repeatable.")] = None,
    tasks: Tasks = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Enqueue a task. Its fields are flags; one that is called like an option below goes after [bold]--[/bold].

    Example: [bold]pgqueue task enqueue SendEmail --to ann@example.com --subject "Hello there" --delay 5m[/bold]

    Example: [bold]pgqueue task enqueue ProcessData --priority 200 -- --queue "a field called queue"[/bold]
    """
    from pgqueue.cli import lookup

    task_settings = with_tasks(settings_of(dsn, schema, tasks))
    task = lookup.task_of(type, context.args, payload)
    options = lookup.enqueue_options(
        delay=delay, at=at, priority=priority, queue=queue, unique=unique, idempotency_key=idempotency_key, tags=tag
    )
    with opened(task_settings) as database:
        handle = database.queue.enqueue(task, **options)
    if json:
        emit({"id": str(handle.id), "type": handle.type, "queue": handle.queue_name, "created": handle.created})
        return
    said = (
        f"enqueued {handle.type} in queue {handle.queue_name}"
        if handle.created
        else f"{handle.type} was there already (unique key)"
    )
    print(f"{handle.id}")
    say(said)


@app.command("run", context_settings=_FIELDS)
def run(context: typer.Context, type: TypeName, payload: Payload = None, tasks: Tasks = None, json: Json = False) -> None:
    """Run a task here and now, without a database, and print its result. Exits with 1 if it raises.

    Its fields are flags; one that is called like an option below goes after [bold]--[/bold].

    Example: [bold]pgqueue task run HelloWorld --name "Tom Jones" --url=a?b=1[/bold]
    """
    from pgqueue.cli import lookup, running

    task_settings = with_tasks(settings_of(tasks=tasks))
    running.run_here(lookup.task_of(type, context.args, payload), task_settings, json=json)


for _name, _command in changing.COMMANDS.items():
    app.command(_name)(_command)
