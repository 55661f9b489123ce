"""From what a person typed to what the client takes: a task type by any spelling, a task by its fields, options by their text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pgqueue.cli.fields import FieldError, build
from pgqueue.cli.output import give_up
from pgqueue.definition import kebab
from pgqueue.durations import parse_duration
from pgqueue.errors import ConfigurationError
from pgqueue.registry import registry
from pgqueue.requests import EnqueueOptions

if TYPE_CHECKING:
    from pgqueue.cli.opening import Opened
    from pgqueue.task import Task


def canonical_type(database: Opened, name: str | None) -> str | None:
    """The name as it is stored: the spelling that a runner registered, else the one that a class of that name has."""
    if name is None:
        return None
    rows = database.rows(database.sql.canonical_type(name=name))
    return str(rows[0][0]) if rows else kebab(name)


def task_of(name: str, words: Sequence[str], document: str | None) -> Task[Any]:
    """The task that these arguments describe; ends the program with the list of fields where they describe none."""
    if name.startswith("-"):
        give_up(f"name the task type first, then its fields: {name} came instead of a type")
    task_type = registry.get(name)
    try:
        return build(task_type, words, document)
    except FieldError as error:
        give_up(str(error), f"the fields of {task_type.name}:", *error.lines)


def enqueue_options(*, delay: str | None, at: str | None, **others: Any) -> EnqueueOptions:
    """The options that were given. Raises ConfigurationError."""
    options: Any = {name: value for name, value in others.items() if value is not None and value != []}
    if delay is not None:
        options["delay"] = parse_duration(delay)
    if at is not None:
        options["at"] = instant(at, "--at")
    result: EnqueueOptions = options
    return result


def instant(text: str, flag: str) -> datetime:
    """An instant as it was typed. Raises ConfigurationError."""
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"{flag} takes an instant such as 2030-01-31T09:30+01:00, not {text!r}") from error
