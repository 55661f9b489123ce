"""`pgqueue task update | delete | restore | requeue | mark`: changes to single tasks by hand."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgqueue.cli.opening import opened, settings_of, with_tasks
from pgqueue.cli.output import EXIT_FAILED, Dsn, Json, Schema, Tasks, emit, give_up, say

if TYPE_CHECKING:
    from pgqueue.settings import Settings

Id = Annotated[str, typer.Argument(metavar="ID", help="The task's id.", show_default=False)]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="The tasks' ids.", show_default=False)]
Payload = Annotated[str | None, typer.Option("--payload", metavar="JSON", help="The whole payload as a JSON object.")]
Delay = Annotated[str | None, typer.Option("--delay", metavar="TIME", help="Not before this long from now: 30s, 5m, 2h.")]
At = Annotated[str | None, typer.Option("--at", metavar="ISO", help="Not before this instant, with its offset from UTC.")]
Priority = Annotated[int | None, typer.Option("--priority", metavar="N", help="Higher runs first.")]
InQueue = Annotated[str | None, typer.Option("--queue", metavar="NAME", help="Another queue.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A label, in place of those it has; repeatable.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Kept with the task.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def update(
    id: Id,
    priority: Priority = None,
    delay: Delay = None,
    at: At = None,
    queue: InQueue = None,
    payload: Payload = None,
    tag: Tags = None,
    tasks: Tasks = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Change a task that waits. Exits with 1 if it does not, or if its unique key is taken where it would go.

    Example: [bold]pgqueue task update 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11 --priority 200 --queue mail[/bold]
    """
    from pgqueue.cli import lookup

    options: dict[str, Any] = {
        **lookup.enqueue_options(delay=delay, at=at, priority=priority, queue=queue, tags=tag),
        "payload": _object(payload),
    }
    with opened(known(tasks, dsn, schema)) as database, refused():
        task = database.queue.update(id, **options)
    if json:
        emit(task.as_json())
    else:
        print(f"{task.id}  {task.status} in queue {task.queue}, priority {task.priority}, {task.maturity_at.isoformat()}")


def delete(
    ids: Ids,
    reason: Reason = None,
    purge: Annotated[bool, typer.Option("--purge", help="For ever, also ones that have ended.")] = False,
    yes: Yes = False,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Delete tasks that wait; [bold]task restore[/bold] brings them back. Exits with 1 if one could not be.

    Example: [bold]pgqueue task delete 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11 --reason "a mistake"[/bold]

    Example: [bold]pgqueue task delete 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11 --purge --yes[/bold]
    """
    from pgqueue.cli.cancelling import confirm

    if purge and not yes:
        confirm(f"Delete {len(ids):,} {'task' if len(ids) == 1 else 'tasks'} for ever?", "nothing was deleted")
    done = "purged" if purge else "deleted"
    with opened(settings_of(dsn, schema)) as database:
        each(ids, lambda id: database.queue.delete(id, reason, purge=purge), done, json=json)


def restore(ids: Ids, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Bring deleted tasks back as they were. Exits with 1 if one could not be.

    Example: [bold]pgqueue task restore 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11[/bold]
    """
    with opened(settings_of(dsn, schema)) as database:
        each(ids, lambda id: database.queue.restore(id), "restored", json=json)


def mark(
    id: Id,
    status: Annotated[str, typer.Argument(metavar="succeeded|failed", help="How it has ended.", show_default=False)],
    result: Annotated[str | None, typer.Option("--result", metavar="JSON", help="The result of one that succeeded.")] = None,
    reason: Reason = None,
    tasks: Tasks = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """End a task by hand that waits or runs. A running attempt goes on, and can settle nothing.

    Example: [bold]pgqueue task mark 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11 succeeded --reason "sent by hand"[/bold]
    """
    value = None if result is None else _json("--result", result)
    with opened(known(tasks, dsn, schema)) as database:
        each(
            [id],
            lambda id: database.queue.mark(id, status, result=value, reason=reason),  # type: ignore[arg-type]  # it is checked
            f"marked {status}",
            json=json,
        )


def requeue(
    id: Id,
    payload: Payload = None,
    delay: Delay = None,
    at: At = None,
    priority: Priority = None,
    queue: InQueue = None,
    tag: Tags = None,
    tasks: Tasks = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Enqueue a copy of a task that has ended, with another payload if you like, and print its id. Exits with 1 if it has not.

    Example: [bold]pgqueue task requeue 0198f2ab-7c1e-7d10-9a53-0b8f6f4b2c11 --payload '{"to": "ann@example.com"}'[/bold]
    """
    from pgqueue.cli import lookup

    options = lookup.enqueue_options(delay=delay, at=at, priority=priority, queue=queue, tags=tag)
    with opened(known(tasks, dsn, schema)) as database, refused():
        handle = database.queue.requeue(id, payload=_object(payload), **options)
    if json:
        emit({"id": str(handle.id), "type": handle.type, "queue": handle.queue_name, "created": handle.created})
        return
    print(f"{handle.id}")
    say(
        f"requeued {handle.type} in queue {handle.queue_name}"
        if handle.created
        else f"{handle.type} was there already (unique key)"
    )


COMMANDS: dict[str, Callable[..., None]] = {
    "update": update,
    "delete": delete,
    "restore": restore,
    "requeue": requeue,
    "mark": mark,
}


def each(ids: list[str], change: Callable[[str], Any], done: str, *, json: bool) -> None:
    """Change these one by one, say what became of each, and exit with 1 if one could not be."""
    results = [_one(id, change, done) for id in ids]
    if json:
        emit({"tasks": results})
    else:
        for result in results:
            print(f"{result['id']}  {result['outcome']}")
    if not all(result["done"] for result in results):
        raise typer.Exit(EXIT_FAILED)


def _one(id: str, change: Callable[[str], Any], done: str) -> dict[str, Any]:
    from pgqueue.errors import EnqueueConflict, KeyTaken, TaskNotFound, WrongStatus

    try:
        change(id)
    except TaskNotFound:
        return {"id": id, "done": False, "outcome": "not found"}
    except (WrongStatus, KeyTaken, EnqueueConflict) as error:
        return {"id": id, "done": False, "outcome": str(error)}
    return {"id": id, "done": True, "outcome": done}


@contextmanager
def refused() -> Iterator[None]:
    """What could not be done is said in one line; exits with 1."""
    from pgqueue.errors import EnqueueConflict, KeyTaken, TaskNotFound, WrongStatus

    try:
        yield
    except (WrongStatus, KeyTaken, EnqueueConflict, TaskNotFound) as error:
        say(str(error))
        raise typer.Exit(EXIT_FAILED) from error


def known(tasks: list[str] | None, dsn: str | None, schema: str | None) -> Settings:
    """The settings; the modules of tasks are imported where some are named, to check payloads against their classes."""
    settings = settings_of(dsn, schema, tasks)
    return with_tasks(settings) if settings.tasks else settings


def _object(document: str | None) -> dict[str, Any] | None:
    if document is None:
        return None
    value = _json("--payload", document)
    if not isinstance(value, dict):
        give_up('--payload takes a JSON object such as \'{"to": "ann@example.com"}\'')
    return value


def _json(option: str, document: str) -> Any:
    try:
        return json_module.loads(document)
    except (ValueError, RecursionError) as error:
        give_up(f"{option} is not JSON: {error}")
