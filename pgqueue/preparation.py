"""From a task and the options of one enqueue to a `Request`, everything checked before a statement is sent. Ground: pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from uuid_utils.compat import uuid7

from pgqueue import keys, payload
from pgqueue.collector import collector_paused
from pgqueue.definition import TaskType, check_unique
from pgqueue.errors import ConfigurationError
from pgqueue.registry import type_of
from pgqueue.requests import (
    DELAY_MAX,
    EnqueueOptions,
    Request,
    Unique,
    check_delay,
    check_instant,
    check_name,
    check_positive,
    check_priority,
    check_tags,
)
from pgqueue.retry import Retry
from pgqueue.settings import Settings
from pgqueue.task import Task

COLLECTOR_BATCH = 10_000
"""For so many tasks at a time the cycle collector is paused."""
HEADER_COUNT_MAX = 50
HEADER_BYTES_MAX = 64 * 1024
PAYLOAD_INDEX = Request._fields.index("payload")
_OPTIONS = frozenset(EnqueueOptions.__annotations__)


def prepare(task: Task[Any], options: Mapping[str, Any], settings: Settings) -> Request:
    """Check and encode one task. Raises ConfigurationError for an option, PayloadError for the payload."""
    task_type = _type_of(task)
    if not options:
        return _prepare_plain(task_type, task, settings)
    if unknown := options.keys() - _OPTIONS:
        raise ConfigurationError(f"enqueue has no option {min(unknown)!r}; it takes {', '.join(sorted(_OPTIONS))}, connection")
    delay, at = _maturity(options.get("delay"), options.get("at"))
    expires_seconds, expires_at = _expiry(options.get("expires"), task_type)
    tags = options.get("tags")
    priority = options.get("priority")
    queue = options.get("queue")
    idempotency_key, idempotency_seconds = _idempotency(task_type, task, options.get("idempotency_key"), settings)
    return _reachable(
        Request(
            id=uuid7(),
            queue=task_type.queue if queue is None else check_name(queue, "queue"),
            type=task_type.name,
            priority=task_type.priority if priority is None else check_priority(priority),
            payload=payload.encode(task_type, task, limit=settings.max_payload_bytes),
            delay_seconds=delay,
            at=at,
            expires_seconds=expires_seconds,
            expires_at=expires_at,
            unique_key=_unique_key(task_type, task, options.get("unique")),
            idempotency_key=idempotency_key,
            idempotency_seconds=idempotency_seconds,
            tags=task_type.tags if tags is None else check_tags(tags, *(task_type.tags or ())) or None,
            headers=_headers(options.get("headers")),
            options=_overrides(options),
            notify=_notify(options.get("notify")),
            keeps_priority=priority is not None,
        )
    )


def _type_of(task: object) -> TaskType[Any]:
    if not isinstance(task, Task):
        hint = f"; did you mean {task.__name__}(...)?" if isinstance(task, type) else ""
        raise ConfigurationError(f"enqueue takes an instance of a @task class, not {task!r:.200}{hint}")
    return type_of(task)


def _prepare_plain(task_type: TaskType[Any], task: Task[Any], settings: Settings) -> Request:
    """The hot path: nothing but what the type says."""
    idempotency_key, idempotency_seconds = _idempotency(task_type, task, None, settings)
    return Request(
        id=uuid7(),
        queue=task_type.queue,
        type=task_type.name,
        priority=task_type.priority,
        payload=payload.encode(task_type, task, limit=settings.max_payload_bytes),
        delay_seconds=None,
        at=None,
        expires_seconds=None if task_type.expires is None else task_type.expires.total_seconds(),
        expires_at=None,
        unique_key=None if task_type.unique is None else keys.unique_key(task_type, task, task_type.unique),
        idempotency_key=idempotency_key,
        idempotency_seconds=idempotency_seconds,
        tags=task_type.tags,
        headers=None,
        options=None,
    )


def prepare_many(
    tasks: Iterable[Task[Any]], options: Mapping[str, Any], spacing: timedelta | None, settings: Settings
) -> list[Request]:
    """Check and encode many; each later one matures `spacing` after the one before it."""
    if isinstance(tasks, Task | str | bytes | Mapping) or not isinstance(tasks, Iterable):
        raise ConfigurationError(f"enqueue_many takes a list of tasks, not {tasks!r:.200}")
    requests = _prepare_all_plain(tasks, settings) if not options else [prepare(task, options, settings) for task in tasks]
    if len(requests) > 1 and isinstance(options.get("idempotency_key"), str):
        raise ConfigurationError(
            "one idempotency_key= for many tasks would keep all but the first out: give a function of the task instead"
        )
    if spacing is None:
        return requests
    step = check_delay(spacing, "spacing")
    if step * len(requests) > DELAY_MAX.total_seconds():
        raise ConfigurationError(f"spacing={spacing} times {len(requests)} tasks is more than {DELAY_MAX.days:,} days")
    return [_spaced(request, spacing, index) for index, request in enumerate(requests)]


def _prepare_all_plain(tasks: Iterable[Task[Any]], settings: Settings) -> list[Request]:
    """As _prepare_plain for each, with what a type says looked up once: most bulk enqueues are of one type without keys."""
    requests: list[Request] = []
    known: dict[type[Any], _Plain] = {}
    rest = iter(tasks)
    while batch := list(islice(rest, COLLECTOR_BATCH)):  # the caller's own code runs here, and as ever
        with collector_paused():
            requests.extend([_prepare_known(task, known, settings) for task in batch])
    return requests


def _prepare_known(task: Task[Any], known: dict[type[Any], _Plain], settings: Settings) -> Request:
    same = known.get(type(task))
    if same is not None:
        text = payload.encode(same.task_type, task, limit=settings.max_payload_bytes)
        return Request._make((uuid7(), *same.before, text, *same.after))
    task_type = _type_of(task)
    request = _prepare_plain(task_type, task, settings)
    if request.unique_key is None and request.idempotency_key is None:
        known[type(task)] = _Plain(task_type, request[1:PAYLOAD_INDEX], request[PAYLOAD_INDEX + 1 :])
    return request


class _Plain(NamedTuple):
    """What the requests of one type have in common, before and after the payload."""

    task_type: TaskType[Any]
    before: tuple[Any, ...]
    after: tuple[Any, ...]


def _spaced(request: Request, spacing: timedelta, index: int) -> Request:
    if request.at is not None:
        return request._replace(at=check_instant(request.at + spacing * index, "at"))
    delay_seconds = (request.delay_seconds or 0.0) + spacing.total_seconds() * index
    return _reachable(request._replace(delay_seconds=delay_seconds))


def _maturity(delay: timedelta | None, at: datetime | None) -> tuple[float | None, datetime | None]:
    if delay is not None and at is not None:
        raise ConfigurationError("both delay= and at= say when: keep one of them")
    return (
        None if delay is None else check_delay(delay, "delay"),
        None if at is None else check_instant(at, "at"),
    )


def _expiry(expires: timedelta | datetime | None, task_type: TaskType[Any]) -> tuple[float | None, datetime | None]:
    """Seconds from the enqueue, or an instant."""
    if isinstance(expires, datetime):
        return None, check_instant(expires, "expires")
    duration = task_type.expires if expires is None else check_positive(expires, "expires")
    return (None if duration is None else duration.total_seconds()), None


def _reachable(request: Request) -> Request:
    """Refuse a task that would expire before it may start, where that can be known without the database's clock."""
    by_delay = request.expires_seconds is not None and (request.delay_seconds or 0.0) >= request.expires_seconds
    by_instant = request.expires_at is not None and request.at is not None and request.at >= request.expires_at
    if by_delay or by_instant:
        raise ConfigurationError(
            f"{request.type} would expire before it may start: its expires= must lie after its delay= or at="
        )
    return request


def _unique_key(task_type: TaskType[Any], task: Task[Any], unique: bool | Unique | None) -> bytes | None:
    if unique is None:
        wanted = task_type.unique
    elif isinstance(unique, bool):
        wanted = (task_type.unique or Unique()) if unique else None
    else:
        wanted = check_unique(task_type.cls, unique)
    return None if wanted is None else keys.unique_key(task_type, task, wanted)


def _idempotency(task_type: TaskType[Any], task: Task[Any], key: Any, settings: Settings) -> tuple[bytes | None, float]:
    """The key, and for how many seconds it is remembered."""
    wanted = task_type.idempotency_key if key is None else key
    if wanted is None:
        return None, 0.0
    retention = task_type.idempotency_retention or settings.idempotency_retention
    return keys.idempotency_key(task_type, task, wanted), retention.total_seconds()


def _headers(headers: Any) -> str | None:
    if headers is None:
        return None
    if not isinstance(headers, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in headers.items()):
        raise ConfigurationError(f"headers takes a mapping of strings to strings, not {headers!r:.200}")
    if len(headers) > HEADER_COUNT_MAX:
        raise ConfigurationError(f"headers takes at most {HEADER_COUNT_MAX} entries, not {len(headers)}")
    return payload.check_json(json.dumps(dict(headers)), "headers", limit=HEADER_BYTES_MAX)


def _notify(notify: Any) -> bool:
    if notify is not None and not isinstance(notify, bool):
        raise ConfigurationError(f"notify takes True or False, not {notify!r:.200}")
    return notify is not False


def _overrides(options: Mapping[str, Any]) -> str | None:
    """What this enqueue overrides of its type's way of running, as the JSON of the column `options`."""
    overrides: dict[str, Any] = {}
    timeout = options.get("timeout")
    if timeout is not None:
        overrides["timeout"] = check_positive(timeout, "timeout").total_seconds()
    retry = options.get("retry")
    if retry is not None:
        if not isinstance(retry, Retry):
            raise ConfigurationError(f"retry takes Retry(max_attempts=...), not {retry!r}")
        overrides["retry"] = retry.as_json()
    return json.dumps(overrides) if overrides else None


def new_id() -> uuid.UUID:
    """A fresh UUIDv7; within one process each is greater than the one before it."""
    return uuid7()
