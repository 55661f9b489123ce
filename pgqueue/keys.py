"""Unique and idempotency keys: stored as SHA-256, since an index row holds 2,700 bytes and a key may be long. Ground: pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pgqueue.definition import TaskType
from pgqueue.errors import ConfigurationError, PayloadError
from pgqueue.requests import IdempotencyKey, Unique
from pgqueue.task import Task


def unique_key(task_type: TaskType[Any], task: Task[Any], unique: Unique) -> bytes:
    """The key of one type, and of the values of `unique.by` in its payload. The queue is a column of its own."""
    values = task.model_dump(mode="json", include=set(unique.by), round_trip=True) if unique.by else {}
    return _digest("unique", task_type.name, json.dumps(values, sort_keys=True, separators=(",", ":")))


def idempotency_key(task_type: TaskType[Any], task: Task[Any], key: IdempotencyKey) -> bytes:
    """The key of one type, and of the caller's string. Raises PayloadError when the function gives no string."""
    value = key(task) if callable(key) else key
    if not isinstance(value, str) or not value:
        source = "the idempotency_key function" if callable(key) else "idempotency_key"
        raise (PayloadError if callable(key) else ConfigurationError)(
            f"{source} of {task_type.name} must give a string that is not empty, not {value!r}"
        )
    return _digest("idempotency", task_type.name, value)


def _digest(*parts: str) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.digest()
