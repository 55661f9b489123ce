"""`pgqueue task cancel`: the named ones one by one, or all that match after a question."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from pgqueue.cli.lookup import canonical_type
from pgqueue.cli.output import EXIT_FAILED, emit, give_up, say
from pgqueue.errors import ConfigurationError, TaskNotFound
from pgqueue.states import UNFINISHED, WAITING

if TYPE_CHECKING:
    from pgqueue.cli.opening import Opened


def cancel_named(database: Opened, ids: list[str], reason: str | None, *, json: bool) -> None:
    """Cancel these, say how each ended, and exit with 1 if one could not be."""
    results = [_cancel_one(database, id, reason) for id in ids]
    if json:
        emit({"tasks": results})
    else:
        for result in results:
            print(f"{result['id']}  {result['outcome']}")
    if not all(result["cancelled"] for result in results):
        raise typer.Exit(EXIT_FAILED)


def _cancel_one(database: Opened, id: str, reason: str | None) -> dict[str, Any]:
    try:
        before = database.queue.get(id)
        cancelled = database.queue.cancel(id, reason)
    except TaskNotFound:
        return {"id": id, "cancelled": False, "outcome": "not found"}
    if not cancelled:
        after = database.queue.get(id)
        return {"id": id, "cancelled": False, "outcome": f"had ended: {after.status}" if after else "had ended"}
    waiting = before is None or before.status in WAITING
    return {"id": id, "cancelled": True, "outcome": "cancelled" if waiting else "running: asked to stop"}


def cancel_matching(database: Opened, filters: dict[str, Any], reason: str | None, *, yes: bool, json: bool) -> None:
    """Say how many match, ask unless told not to, and cancel them."""
    filters = {**filters, "status": _statuses(filters["status"]), "type": canonical_type(database, filters["type"])}
    if not yes:
        _ask(database, filters)
    count = database.queue.cancel_all(**filters, reason=reason)
    if json:
        emit({"cancelled": count})
    else:
        print(f"cancelled {count:,} {_tasks(count)}; running ones among them were asked to stop")


def _ask(database: Opened, filters: dict[str, Any]) -> None:
    count = _count(database, filters)
    confirm(f"Cancel {count:,} unfinished {_tasks(count)}?", "nothing was cancelled")


def confirm(question: str, otherwise: str) -> None:
    """Ask, and exit with 1 after a no. Where nobody is there to ask it is wrong usage."""
    if not sys.stdin.isatty():
        give_up("there is nobody to ask here: add --yes")
    if not typer.confirm(question, err=True):
        say(otherwise)
        raise typer.Exit(EXIT_FAILED)


def _count(database: Opened, filters: dict[str, Any]) -> int:
    statuses = filters["status"] or sorted(UNFINISHED)
    return int(database.rows(database.sql.count_matching(**filters, statuses=statuses))[0][0])


def _statuses(wanted: list[str] | None) -> list[str] | None:
    """Refused before the question is asked."""
    for status in wanted or ():
        if status not in UNFINISHED:
            raise ConfigurationError(
                f"--status takes {', '.join(sorted(UNFINISHED))} here, not {status!r}: ended tasks cannot be cancelled"
            )
    return wanted


def _tasks(count: int) -> str:
    return "task" if count == 1 else "tasks"
