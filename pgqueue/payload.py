"""Payloads and results as JSON text, and back. Ground: pure.

What PostgreSQL's jsonb would refuse or change is refused here, before the insert: non-finite numbers, NUL, lone surrogates.
"""

from __future__ import annotations

import json
import logging
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from pgqueue.definition import TaskType
from pgqueue.errors import PayloadError
from pgqueue.task import Task

R = TypeVar("R")
logger = logging.getLogger("pgqueue.payload")
PAYLOAD_BYTES_MAX = 1024 * 1024
"""Default limit of a payload's or result's JSON, in bytes of UTF-8."""

_warned_types: set[str] = set()


def encode(task_type: TaskType[Any], task: Task[Any], *, limit: int = PAYLOAD_BYTES_MAX) -> str:
    """The payload's JSON. Raises PayloadError for what JSON or PostgreSQL cannot hold, naming the type."""
    try:
        text = task.model_dump_json(by_alias=True, round_trip=True, warnings="error")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise PayloadError(f"the payload of {task_type.name} cannot be stored as JSON: {_line(error)}") from error
    return check_json(text, f"the payload of {task_type.name}", limit=limit)


def decode(task_type: TaskType[Any], text: str) -> Task[Any]:
    """The task of a stored payload. Unknown fields, which a newer program may have added, are ignored with one warning.

    Raises PayloadError when it does not validate.
    """
    try:
        return task_type.cls.model_validate_json(text)
    except ValidationError as error:
        if any(item["type"] != "extra_forbidden" for item in error.errors(include_url=False, include_context=False, include_input=False)):
            raise PayloadError(f"the payload of {task_type.name} does not validate: {summary(error)}") from error
    except RecursionError as error:
        raise PayloadError(f"the payload of {task_type.name} is nested too deeply") from error
    if task_type.name not in _warned_types:
        _warned_types.add(task_type.name)
        logger.warning("payloads of %s hold fields that this program does not know; they are ignored", task_type.name)
    return task_type.cls.model_validate_json(text, extra="ignore")


def validate(task_type: TaskType[Any], values: dict[str, Any]) -> Task[Any]:
    """The task of these values, as a caller by name gives them. Raises PayloadError."""
    try:
        return task_type.cls.model_validate_json(to_json(values, inf_nan_mode="constants"))
    except ValidationError as error:
        raise PayloadError(f"the payload of {task_type.name} does not validate: {summary(error)}") from error
    except (PydanticSerializationError, ValueError) as error:
        raise PayloadError(f"the payload of {task_type.name} cannot be stored as JSON: {_line(error)}") from error


def encode_result(task_type: TaskType[Any], result: Any, *, limit: int = PAYLOAD_BYTES_MAX) -> str | None:
    """The result's JSON, or None for no result. Checked against the R of `Task[R]`. Raises PayloadError."""
    adapter: TypeAdapter[Any] | None = task_type.result_adapter
    if result is None and adapter is None:
        return None
    try:
        if adapter is None:
            raw = to_json(result, inf_nan_mode="constants")
        else:
            value = adapter.validate_python(result)
            if value is None:
                return None
            raw = adapter.dump_json(value, by_alias=True, round_trip=True, warnings="error")
        return check_json(raw.decode(), f"the result of {task_type.name}", limit=limit)
    except ValidationError as error:
        raise PayloadError(f"the result of {task_type.name} is not what Task[...] promises: {summary(error)}") from error
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise PayloadError(f"the result of {task_type.name} cannot be stored as JSON: {_line(error)}") from error


def decode_result(task_type: TaskType[Any] | None, text: str | None) -> Any:
    """The result of its JSON, as the R of `Task[R]`; plain JSON values where no type is known. Raises PayloadError."""
    if task_type is None or task_type.result_adapter is None:
        return None if text is None else json.loads(text)
    try:
        return task_type.result_adapter.validate_json("null" if text is None else text)
    except ValidationError as error:
        raise PayloadError(f"the stored result of {task_type.name} does not validate: {summary(error)}") from error


def check_json(text: str, what: str, *, limit: int) -> str:
    """Refuse JSON that is too large, or that jsonb would not take. Returns the text unchanged."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise PayloadError(f"{what} has {size:,} bytes of JSON, over the limit of {limit:,}: store it elsewhere and pass a reference")
    # A substring is a cheap first look; only a suspect text is parsed, since the words may stand inside a string.
    if "NaN" in text or "Infinity" in text:
        json.loads(text, parse_constant=lambda name: _refuse(f"{what} holds {name}, which JSON does not know"))
    if "\\u0000" in text and _holds_nul(json.loads(text)):
        raise PayloadError(f"{what} holds a NUL character, which PostgreSQL cannot store")
    if not text.isascii() or "\\ud" in text.lower():
        _refuse_surrogates(text, what)
    return text


def summary(error: ValidationError) -> str:
    """A validation error in one line, without the values: they may be secret."""
    items = error.errors(include_url=False, include_context=False, include_input=False)
    parts = [f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['msg']}" for item in items[:5]]
    return "; ".join(parts) + (f"; and {len(items) - 5} more" if len(items) > 5 else "")


def _refuse(message: str) -> NoReturn:
    raise PayloadError(message)


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_holds_nul(item) for item in value)


def _refuse_surrogates(text: str, what: str) -> None:
    try:
        decoded = json.dumps(json.loads(text), ensure_ascii=False) if "\\ud" in text.lower() else text
        decoded.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PayloadError(f"{what} holds half of a surrogate pair, which is no character") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
