"""What is to be changed of a stored task by hand, and what a copy of one is made of: checked before it is written. Ground: pure.

A payload is checked against its type where this program knows it; of another it must be a JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, TypeAlias

from typing_extensions import TypedDict

from pgqueue import keys, payload
from pgqueue.errors import ConfigurationError, PayloadError
from pgqueue.preparation import check_maturity, prepare, prepare_stored
from pgqueue.registry import Registry, type_of
from pgqueue.requests import Request, check_name, check_priority, check_tags
from pgqueue.settings import Settings
from pgqueue.task import Task

Values: TypeAlias = "Mapping[str, Any] | Task[Any]"
"""A payload as a caller gives it: a task of the same type, or all of its fields by name."""
Mark: TypeAlias = Literal["succeeded", "failed"]


class UpdateOptions(TypedDict, total=False):
    """What may be changed of a waiting task; what is left out, or None, stays as it is."""

    priority: int | None
    at: datetime | None
    delay: timedelta | None
    queue: str | None
    payload: Values | None
    tags: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to be changed of a waiting task; None: nothing. An empty tuple of tags takes them away."""

    priority: int | None
    delay_seconds: float | None
    at: datetime | None
    queue: str | None
    values: Values | None
    tags: tuple[str, ...] | None

    def maturity_at(self, now: datetime) -> datetime | None:
        """From when it may run then; `now` is the database's clock. None: as it is."""
        return self.at if self.delay_seconds is None else now + timedelta(seconds=self.delay_seconds)


def check_edit(options: Mapping[str, Any]) -> Edit:
    """Something, and nothing unknown. Raises ConfigurationError."""
    known = UpdateOptions.__annotations__
    given = {name: value for name, value in options.items() if value is not None}
    if not given or given.keys() - known:
        wrong = f"has no option {min(given.keys() - known)!r}" if given else "was given nothing to change"
        raise ConfigurationError(f"update {wrong}; it takes {', '.join(known)}")
    delay_seconds, at = check_maturity(given.get("delay"), given.get("at"))
    return Edit(
        priority=check_priority(given["priority"]) if "priority" in given else None,
        delay_seconds=delay_seconds,
        at=at,
        queue=check_name(given["queue"], "queue") if "queue" in given else None,
        values=check_values(given.get("payload")),
        tags=check_tags(given["tags"]) if "tags" in given else None,
    )


def check_values(values: Any) -> Values | None:
    """Raises ConfigurationError for what can be no payload."""
    if values is None or isinstance(values, Task | Mapping):
        return values
    raise ConfigurationError(f"payload takes a task, or a mapping of all its fields, not {values!r:.200}")


def check_mark(mark: object, result: object) -> Mark:
    """How a task is to have ended. Raises ConfigurationError."""
    if mark not in ("succeeded", "failed"):
        raise ConfigurationError(f'mark takes "succeeded" or "failed", not {mark!r:.200}')
    if mark == "failed" and result is not None:
        raise ConfigurationError("result= belongs to a task marked succeeded; say why one failed with reason=")
    return mark


def encode_values(registry: Registry, type_name: str, values: Values, *, limit: int) -> str:
    """The JSON of a payload for a stored task of that type. Raises PayloadError, ConfigurationError for another type's task."""
    if isinstance(values, Task):
        task_type = type_of(values)
        if task_type.name != type_name:
            raise ConfigurationError(f"payload is a task of type {task_type.name!r}, and this one is of type {type_name!r}")
        return payload.encode(task_type, values, limit=limit)
    known = registry.find(type_name)
    if known is None:
        return _encode_unknown(dict(values), f"the payload of {type_name}", limit=limit)
    return payload.encode(known, payload.validate(known, values), limit=limit)


def encode_result(registry: Registry, type_name: str, result: Any, *, limit: int) -> str | None:
    """The JSON of a result given by hand, checked against the R of `Task[R]` where the type is known. Raises PayloadError."""
    if result is None:
        return None
    known = registry.find(type_name)
    if known is None:
        return _encode_unknown(result, f"the result of {type_name}", limit=limit)
    return payload.encode_result(known, result, limit=limit)


def followed_key(registry: Registry, type_name: str, key: bytes | None, *, before: str, after: str) -> bytes | None:
    """The unique key of a task whose payload is changed: made of the new one where its type made it of the old one.

    One that an enqueue's own `unique=` made, or of a type that is not known here, stays as it is.
    """
    known = registry.find(type_name)
    if key is None or known is None or known.unique is None or not known.unique.by:
        return key
    try:
        made = keys.unique_key(known, payload.decode(known, before), known.unique)
    except PayloadError:  # what is stored does not validate: perhaps the reason for the change
        return key
    return key if made != key else keys.unique_key(known, payload.decode(known, after), known.unique)


class Original(NamedTuple):
    """A task that has ended, as original.sql gives it. payload, headers and options are JSON text."""

    queue: str
    type: str
    priority: int
    payload: str
    tags: list[str] | None
    headers: str | None
    options: str | None


def copy_request(
    original: Original, values: Values | None, options: Mapping[str, Any], registry: Registry, settings: Settings
) -> Request:
    """A new task like this one: its queue, priority, tags, headers, timeout and retry, where `options` say nothing else.

    The type's idempotency key would name the original, so the copy has only one that `options` give.
    Raises ConfigurationError, PayloadError.
    """
    said = {name: value for name, value in options.items() if value is not None}
    chosen = {"queue": original.queue, "priority": original.priority, "tags": original.tags or (), **said}
    if original.headers is not None:
        chosen.setdefault("headers", json.loads(original.headers))
    known = registry.find(original.type)
    if known is None:
        text = original.payload
        if values is not None:
            text = encode_values(registry, original.type, values, limit=settings.max_payload_bytes)
        request = prepare_stored(original.type, text, chosen, settings)
    else:
        text = original.payload
        if values is not None:
            text = encode_values(registry, known.name, values, limit=settings.max_payload_bytes)
        request = prepare(payload.decode(known, text), chosen, settings)._replace(payload=text)
    if "idempotency_key" not in said:
        request = request._replace(idempotency_key=None, idempotency_seconds=0.0)
    return request._replace(options=_merged(original.options, request.options))


def _merged(stored: str | None, given: str | None) -> str | None:
    """What the original's enqueue said of timeout and retry, and on top of it what this one says."""
    kept = {} if stored is None else json.loads(stored)
    options = {name: value for name, value in kept.items() if name in ("timeout", "retry")}
    options |= {} if given is None else json.loads(given)
    return json.dumps(options) if options else None


def _encode_unknown(value: Any, what: str, *, limit: int) -> str:
    try:
        return payload.check_json(json.dumps(value), what, limit=limit)
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"{what} cannot be stored as JSON: {error}") from error
