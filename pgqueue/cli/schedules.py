"""`pgqueue schedules`: list, show, create, update, pause, resume, delete, trigger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgqueue.cli.opening import opened, settings_of, with_tasks
from pgqueue.cli.output import EPILOG, EXIT_FAILED, Dsn, Json, Schema, Tasks, emit, say

if TYPE_CHECKING:
    from pgqueue.cli.opening import Opened
    from pgqueue.settings import Settings

app = typer.Typer(help="Look at what recurs, make it, change it and trigger it.", no_args_is_help=True, epilog=EPILOG)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.", show_default=False)]
App = Annotated[str | None, typer.Option("--app", metavar="NAME", help="Whose schedule it is; default the setting app.")]
TypeName = Annotated[str, typer.Argument(metavar="TYPE", help="The task type; case, - and _ do not matter.", show_default=False)]
Payload = Annotated[str | None, typer.Option("--payload", metavar="JSON", help="The payload as a JSON object; fields go on top.")]
Frequency = Annotated[str | None, typer.Option("--frequency", metavar="TIME", help="Every so often: 30s, 5m, 2h.")]
Cron = Annotated[str | None, typer.Option("--cron", metavar="TEXT", help="Five fields, such as '0 3 * * MON-FRI'.")]
RRule = Annotated[str | None, typer.Option("--rrule", metavar="TEXT", help="RFC 5545, such as 'FREQ=MONTHLY;BYDAY=-1FR'.")]
Timezone = Annotated[str | None, typer.Option("--timezone", metavar="NAME", help="Of --cron or --rrule: Europe/Berlin.")]
StartAt = Annotated[str | None, typer.Option("--start-at", metavar="ISO", help="No slot before this instant.")]
EndAt = Annotated[str | None, typer.Option("--end-at", metavar="ISO", help="No slot after this instant.")]
MaxRuns = Annotated[str | None, typer.Option("--max-runs", metavar="N", help="It ends after so many.")]
Missed = Annotated[str | None, typer.Option("--missed", metavar="HOW", help="Slots missed: last, skip or all.")]
InQueue = Annotated[str | None, typer.Option("--queue", metavar="NAME", help="Another queue than the type's.")]
Priority = Annotated[int | None, typer.Option("--priority", metavar="N", help="Higher runs first.")]
Expires = Annotated[str | None, typer.Option("--expires", metavar="TIME", help="Cancelled if it has not started by then.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="Of each attempt.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A label; repeatable.")]
IsUnique = Annotated[
    bool | None, typer.Option("--unique/--no-unique", help="A slot is skipped while the last task is unfinished.")
]

# What is no option of ours is a field of the task; what follows `--` always is.
_FIELDS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("list")
def list_schedules(
    app: Annotated[str | None, typer.Option("--app", metavar="NAME", help="Only those of this app.")] = None,
    type: Annotated[str | None, typer.Option("--type", metavar="NAME", help="Only this task type.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Up to 1,000.")] = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", metavar="TEXT", help="Go on where the page before ended.")] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """List schedules by app and name, those that have ended included.

    Example: [bold]pgqueue schedules list --type Report[/bold]
    """
    from pgqueue.cli import timetable
    from pgqueue.cli.lookup import canonical_type

    with opened(settings_of(dsn, schema)) as database:
        page = database.queue.schedules.list(app=app, type=canonical_type(database, type), limit=limit, cursor=cursor)
        now = database.rows(database.sql.clock())[0][0]
    if json:
        emit({"schedules": [schedule.as_json() for schedule in page], "cursor": page.cursor})
    else:
        timetable.schedule_table(page, now)


@app.command("show")
def show(
    name: Name,
    app: App = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="So many of its newest slots.")] = 10,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Show everything about a schedule, and what became of its newest slots.

    Example: [bold]pgqueue schedules show nightly[/bold]
    """
    from pgqueue.cli import timetable

    with _opened(settings_of(dsn, schema, app=app), json=json) as database:
        schedule = database.queue.schedules.get(name)
        slots = database.queue.schedules.slots(name, limit=limit)
        now = database.rows(database.sql.clock())[0][0]
    assert schedule is not None
    if json:
        emit({**schedule.as_json(), "slots": [slot.as_json() for slot in slots]})
    else:
        timetable.schedule_sheet(schedule, slots, now)


@app.command("create", context_settings=_FIELDS)
def create(
    context: typer.Context,
    name: Name,
    type: TypeName,
    payload: Payload = None,
    frequency: Frequency = None,
    cron: Cron = None,
    rrule: RRule = None,
    timezone: Timezone = None,
    start_at: StartAt = None,
    end_at: EndAt = None,
    max_runs: MaxRuns = None,
    missed: Missed = None,
    queue: InQueue = None,
    priority: Priority = None,
    expires: Expires = None,
    timeout: Timeout = None,
    unique: IsUnique = None,
    tag: Tags = None,
    app: App = None,
    tasks: Tasks = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Make a schedule; one of that name becomes this one. Fields are flags; one called like an option goes after [bold]--[/bold].

    Example: [bold]pgqueue schedules create nightly Report --cron "0 3 * * *" --timezone Europe/Berlin --kind full[/bold]
    """
    from pgqueue.cli import lookup
    from pgqueue.cli.scheduling import options_of

    task_settings = with_tasks(settings_of(dsn, schema, tasks, app=app))
    task = lookup.task_of(type, context.args, payload)
    options = options_of(
        frequency=frequency, cron=cron, rrule=rrule, timezone=timezone, start_at=start_at, end_at=end_at, max_runs=max_runs,
        missed=missed, queue=queue, priority=priority, expires=expires, timeout=timeout, unique=unique, tags=tag,
    )  # fmt: skip
    with opened(task_settings) as database:
        _tell(database.queue.schedules.create(name, task, **options), json=json)


@app.command("update")
def update(
    name: Name,
    type: Annotated[str | None, typer.Option("--type", metavar="NAME", help="Another task type; with --payload.")] = None,
    payload: Annotated[str | None, typer.Option("--payload", metavar="JSON", help="Another payload, whole.")] = None,
    frequency: Frequency = None,
    cron: Cron = None,
    rrule: RRule = None,
    timezone: Timezone = None,
    start_at: StartAt = None,
    end_at: EndAt = None,
    max_runs: MaxRuns = None,
    missed: Missed = None,
    queue: InQueue = None,
    priority: Priority = None,
    expires: Expires = None,
    timeout: Timeout = None,
    unique: IsUnique = None,
    tag: Tags = None,
    app: App = None,
    tasks: Tasks = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Change what is named; the rest stays. [bold]none[/bold] takes a bound, --expires or --timeout away.

    Example: [bold]pgqueue schedules update nightly --cron "0 4 * * *" --end-at none[/bold]
    """
    from pgqueue.cli.scheduling import document_of, options_of

    options = options_of(
        frequency=frequency, cron=cron, rrule=rrule, timezone=timezone, start_at=start_at, end_at=end_at, max_runs=max_runs,
        missed=missed, queue=queue, priority=priority, expires=expires, timeout=timeout, unique=unique, tags=tag,
    )  # fmt: skip
    settings = settings_of(dsn, schema, tasks, app=app)
    if type is not None or payload is not None or unique is not None:
        settings = with_tasks(settings)  # nothing else needs the class
    with _opened(settings, json=json) as database:
        changed = database.queue.schedules.update(name, task=type, payload=document_of(payload), **options)
        _tell(changed, json=json)


@app.command("pause")
def pause(name: Name, app: App = None, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Let no slot of a schedule fire until it is resumed, across restarts and deployments.

    Example: [bold]pgqueue schedules pause nightly[/bold]
    """
    with _opened(settings_of(dsn, schema, app=app), json=json) as database:
        _tell(database.queue.schedules.pause(name), json=json)


@app.command("resume")
def resume(name: Name, app: App = None, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Let a schedule go on; slots that went by meanwhile are treated as missed ones.

    Example: [bold]pgqueue schedules resume nightly[/bold]
    """
    with _opened(settings_of(dsn, schema, app=app), json=json) as database:
        _tell(database.queue.schedules.resume(name), json=json)


@app.command("delete")
def delete(name: Name, app: App = None, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Forget a schedule; its tasks stay. One that is declared in code is refused: it would come back.

    Example: [bold]pgqueue schedules delete nightly[/bold]
    """
    with opened(settings_of(dsn, schema, app=app)) as database:
        deleted = database.queue.schedules.delete(name)
    if json:
        emit({"name": name, "deleted": deleted})
    elif deleted:
        print(f"deleted {name}")
    if not deleted:
        say(f"no schedule is called {name}")
        raise typer.Exit(EXIT_FAILED)


@app.command("trigger")
def trigger(name: Name, app: App = None, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Enqueue a schedule's task now, also when it is paused or has ended; its slots are not moved.

    Example: [bold]pgqueue schedules trigger nightly[/bold]
    """
    with _opened(settings_of(dsn, schema, app=app), json=json) as database:
        handle = database.queue.schedules.trigger(name)
    if json:
        emit({"id": str(handle.id), "type": handle.type, "queue": handle.queue_name, "created": handle.created})
        return
    print(f"{handle.id}")
    say(f"enqueued {handle.type} in queue {handle.queue_name}" if handle.created else f"{handle.type} is unfinished: this one")


@contextmanager
def _opened(settings: Settings, *, json: bool) -> Iterator[Opened]:
    """The database of these settings; a schedule that is not there is null as JSON, and ends the program with 1."""
    from pgqueue.errors import ScheduleNotFound

    with opened(settings) as database:
        try:
            yield database
        except ScheduleNotFound as error:
            if json:
                emit(None)
            say(str(error))
            raise typer.Exit(EXIT_FAILED) from error


def _tell(schedule: Any, *, json: bool) -> None:
    if json:
        emit(schedule.as_json())
        return
    from pgqueue.cli.timetable import state
    from pgqueue.doors import one_line

    print(one_line(f"{schedule.name}: {schedule.recurs()}, {state(schedule)}"))
