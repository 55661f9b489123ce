"""Payloads and results as JSON text, and back. Ground: pure.

What PostgreSQL's jsonb would refuse or change is refused here, before the insert: non-finite numbers, NUL, lone surrogates; and
what would not validate when it is read back.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from pgqueue.definition import TaskType
from pgqueue.errors import PayloadError
from pgqueue.task import Task

logger = logging.getLogger("pgqueue.payload")
PAYLOAD_BYTES_MAX = 1024 * 1024
"""Default limit of a payload's or result's JSON, in bytes of UTF-8."""
ERRORS_SHOWN_MAX = 5

_warned_types: set[str] = set()


def encode(task_type: TaskType[Any], task: Task[Any], *, limit: int = PAYLOAD_BYTES_MAX) -> str:
    """The payload's JSON. Raises PayloadError for what JSON or PostgreSQL cannot hold, and for what would not be read back."""
    what = f"the payload of {task_type.name}"
    try:
        raw = type(task).__pydantic_serializer__.to_json(task, by_alias=True, round_trip=True, warnings="error")
        _refuse_hidden_non_finite(raw, task, what)
        text = check_json(raw.decode(), what, limit=limit)
        # Fields may have been set, or filled by model_construct, past every check.
        type(task).__pydantic_validator__.validate_json(raw)
        return text
    except PayloadError:
        raise
    except ValidationError as error:
        raise PayloadError(f"{what} does not validate: {summary(error)}") from error
    except Exception as error:  # user code too: serializers and validators may raise anything
        raise PayloadError(f"{what} cannot be stored as JSON: {_line(error)}") from error


def decode(task_type: TaskType[Any], text: str) -> Task[Any]:
    """The task of a stored payload. Unknown fields, which a newer program may have added, are ignored with one warning.

    Raises PayloadError when it does not validate, whatever its validators raise.
    """
    try:
        task: Task[Any] = task_type.cls.__pydantic_validator__.validate_json(text)
    except ValidationError as error:
        return _decode_leniently(task_type, text, error)
    except BaseException as error:  # user code: one bad row must not end the runner, with SystemExit least of all
        raise PayloadError(f"the payload of {task_type.name} cannot be read: {_line(error)}") from error
    return task


def _decode_leniently(task_type: TaskType[Any], text: str, refusal: ValidationError) -> Task[Any]:
    """Once more without the unknown fields, if it was those. Raises PayloadError with what is wrong beside them."""
    what = f"the payload of {task_type.name}"
    if all(item["type"] != "extra_forbidden" for item in _items(refusal)):
        raise PayloadError(f"{what} does not validate: {summary(refusal)}") from refusal
    try:
        task: Task[Any] = task_type.cls.__pydantic_validator__.validate_json(text, extra="ignore")
    except ValidationError as error:
        raise PayloadError(f"{what} does not validate: {summary(error)}") from error
    except BaseException as error:  # as above
        raise PayloadError(f"{what} cannot be read: {_line(error)}") from error
    if task_type.name not in _warned_types:
        _warned_types.add(task_type.name)
        names = ", ".join(".".join(map(str, item["loc"])) for item in _items(refusal) if item["type"] == "extra_forbidden")
        logger.warning(
            "payloads of %s hold fields that this program does not know (%.200s); they are ignored", task_type.name, names
        )
    return task


def validate(task_type: TaskType[Any], values: Mapping[str, Any]) -> Task[Any]:
    """The task of these values, as a caller by name gives them: Python values or their JSON forms. Raises PayloadError."""
    what = f"the payload of {task_type.name}"
    try:
        task: Task[Any] = task_type.cls.__pydantic_validator__.validate_json(
            to_json(values, inf_nan_mode="constants", bytes_mode="base64")
        )
    except ValidationError as error:
        raise PayloadError(f"{what} does not validate: {summary(error)}") from error
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise PayloadError(f"{what} cannot be stored as JSON: {_line(error)}") from error
    return task


def encode_result(task_type: TaskType[Any], result: Any, *, limit: int = PAYLOAD_BYTES_MAX) -> str | None:
    """The result's JSON, or None for no result. Checked against the R of `Task[R]`. Raises PayloadError."""
    what = f"the result of {task_type.name}"
    adapter: TypeAdapter[Any] | None = task_type.result_adapter
    if result is None and adapter is None:
        return None
    try:
        return _encode_anything(result, what, limit) if adapter is None else _encode_promised(adapter, result, what, limit)
    except PayloadError:
        raise
    except ValidationError as error:
        raise PayloadError(f"{what} is not what Task[...] promises: {summary(error)}") from error
    except Exception as error:  # user code too: serializers and validators may raise anything
        raise PayloadError(f"{what} cannot be stored as JSON: {_line(error)}") from error


def entries(task_type: TaskType[Any], returned: Any, count: int) -> list[Any]:
    """What `run_many` returned, as one entry for each of its `count` tasks: a result or an exception. Raises PayloadError."""
    if returned is None:
        return [None] * count
    what = f"run_many of {task_type.name}"
    if inspect.isawaitable(returned):
        getattr(returned, "close", lambda: None)()
        raise PayloadError(f"{what} returned an awaitable: write `async def run_many`")
    if not isinstance(returned, Sequence) or isinstance(returned, str | bytes | bytearray):
        kind = type(returned).__name__
        raise PayloadError(f"{what} returns a list with an entry for each of its tasks, or None, not a value of type {kind}")
    found = list(returned)
    if len(found) != count:
        raise PayloadError(f"{what} returned {len(found)} entries for {count} tasks: each has one, in the order of the tasks")
    return found


def _encode_anything(result: Any, what: str, limit: int) -> str:
    raw = to_json(result, inf_nan_mode="constants")
    text = check_json(raw.decode(), what, limit=limit)
    from_json(raw)  # refuses what is nested too deeply to be read back, or a number too long
    return text


def _encode_promised(adapter: TypeAdapter[Any], result: Any, what: str, limit: int) -> str | None:
    value = adapter.validate_python(result)
    if value is None:
        return None
    raw = adapter.dump_json(value, by_alias=True, round_trip=True, warnings="error")
    _refuse_hidden_non_finite(raw, value, what)
    text = check_json(raw.decode(), what, limit=limit)
    adapter.validate_json(raw)
    return text


def decode_result(task_type: TaskType[Any] | None, text: str | None) -> Any:
    """The result of its JSON, as the R of `Task[R]`; plain JSON values where no type is known. Raises PayloadError."""
    try:
        if task_type is None or task_type.result_adapter is None:
            return None if text is None else json.loads(text)
        return task_type.result_adapter.validate_json("null" if text is None else text)
    except ValidationError as error:
        assert task_type is not None
        raise PayloadError(f"the stored result of {task_type.name} does not validate: {summary(error)}") from error
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the stored result cannot be read: {_line(error)}") from error


def check_json(text: str, what: str, *, limit: int) -> str:
    """Refuse JSON that is too large, or that jsonb would not take. Returns the text unchanged."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise PayloadError(
            f"{what} has {size:,} bytes of JSON, over the limit of {limit:,}: store it elsewhere and pass a reference"
        )
    # A substring is a cheap first look; only a suspect text is parsed, since the words may stand inside a string.
    if "NaN" in text or "Infinity" in text:
        json.loads(text, parse_constant=lambda name: _refuse(f"{what} holds {name}, which JSON does not know"))
    if "\\u0000" in text and _holds_nul(json.loads(text)):
        raise PayloadError(f"{what} holds a NUL character, which PostgreSQL cannot store")
    if not text.isascii() or "\\ud" in text or "\\uD" in text:
        _refuse_surrogates(text, what)
    return text


def summary(error: ValidationError) -> str:
    """A validation error in one line, without the values: they may be secret."""
    items = _items(error)
    parts = [f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['msg']}" for item in items[:ERRORS_SHOWN_MAX]]
    return "; ".join(parts) + (f"; and {len(items) - ERRORS_SHOWN_MAX} more" if len(items) > ERRORS_SHOWN_MAX else "")


def _items(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_context=False, include_input=False))


def _refuse(message: str) -> NoReturn:
    raise PayloadError(message)


def _refuse_hidden_non_finite(raw: bytes, value: Any, what: str) -> None:
    """A model held inside a payload writes NaN as null, unless its own configuration says otherwise. So a null is suspect."""
    if b"null" in raw and _holds_non_finite(value):
        raise PayloadError(f"{what} holds NaN or Infinity, which JSON does not know")


def _holds_non_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, BaseModel):
        return any(_holds_non_finite(value.__dict__.get(name)) for name in type(value).model_fields)
    if isinstance(value, Mapping):
        return any(_holds_non_finite(item) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_holds_non_finite(item) for item in value)
    return any(_holds_non_finite(getattr(value, name, None)) for name in getattr(value, "__dataclass_fields__", ()))


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_holds_nul(item) for item in value)


def _refuse_surrogates(text: str, what: str) -> None:
    try:
        decoded = json.dumps(json.loads(text), ensure_ascii=False) if "\\ud" in text or "\\uD" in text else text
        decoded.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PayloadError(f"{what} holds half of a surrogate pair, which is no character") from error


def _line(error: BaseException) -> str:
    """An error in one line; its str() is user code too."""
    try:
        text = " ".join(str(error).split())[:300]
    except Exception as mistake:  # noqa: BLE001  # user code
        text = f"(its str() raised {type(mistake).__name__})"
    return text if isinstance(error, ValueError | RecursionError) and text else f"{type(error).__name__}: {text}"
