"""Unique and idempotency keys: stored as SHA-256, since an index row holds 2,700 bytes and a key may be long. Ground: pure."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from pgqueue.definition import TaskType
from pgqueue.errors import ConfigurationError, PayloadError
from pgqueue.requests import IdempotencyKey, Unique
from pgqueue.task import Task


def unique_key(task_type: TaskType[Any], task: Task[Any], unique: Unique) -> bytes:
    """The key of one type, and of the values of `unique.by` as the payload stores them. The queue is a column of its own."""
    if not unique.by:
        return _digest("unique", task_type.name, "{}")
    wanted = set(unique.by)
    stored = task.model_dump(mode="json", include=wanted, round_trip=True)
    values = _ordered(stored, {name: getattr(task, name) for name in stored})
    return _digest("unique", task_type.name, _text(values))


def idempotency_key(task_type: TaskType[Any], task: Task[Any], key: IdempotencyKey) -> bytes:
    """The key of one type, and of the caller's string. Raises PayloadError when the function gives no string."""
    value: object = key(task) if callable(key) else key
    if isinstance(value, str) and value:
        return _digest("idempotency", task_type.name, value)
    if inspect.iscoroutine(value):
        value.close()
    source = "the idempotency_key function" if callable(key) else "idempotency_key"
    raise (PayloadError if callable(key) else ConfigurationError)(
        f"{source} of {task_type.name} must give a string that is not empty, not {value!r:.200}"
    )


def _ordered(stored: Any, value: Any) -> Any:
    """The JSON value with its sets in order: a set of strings comes out in another order in every process."""
    if isinstance(value, set | frozenset) and isinstance(stored, list):
        return sorted(stored, key=_text)
    if isinstance(value, Mapping) and isinstance(stored, dict) and len(value) == len(stored):
        return {name: _ordered(item, held) for (name, item), held in zip(stored.items(), value.values(), strict=True)}
    if isinstance(stored, dict):
        return {name: _ordered(item, getattr(value, name, None)) for name, item in stored.items()}
    if isinstance(value, list | tuple) and isinstance(stored, list) and len(value) == len(stored):
        return [_ordered(item, held) for item, held in zip(stored, value, strict=True)]
    return stored


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(*parts: str) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.digest()
