"""A task from the command line: `--to ann@example.com --copies 3` as the payload of a task type.

What a field may take decides how its text is read. A field that takes text gets it as it is (str, Decimal, datetime, Literal …);
any other is read as JSON if it is JSON. A field given several times, or once for a list, makes a list. A flag alone is true.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter, ValidationError

from pgqueue import payload
from pgqueue.errors import PayloadError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from pgqueue.definition import TaskType
    from pgqueue.task import Task


class FieldError(PayloadError):
    """What was given does not make a payload. `lines` list the fields."""

    def __init__(self, message: str, lines: Sequence[str]) -> None:
        super().__init__(message)
        self.lines = lines


def build(task_type: TaskType[Any], words: Sequence[str], document: str | None) -> Task[Any]:
    """The task of these field arguments, on top of a JSON object. Raises FieldError, which lists the fields."""
    fields: dict[str, FieldInfo] = task_type.cls.model_fields
    try:
        values = _object(document)
        for name, texts in _pairs(words).items():
            key, info = _field(fields, name)
            values.pop(key, None)
            values[info.alias or key] = _read(info, key, texts)
        return payload.validate(task_type, values)
    except PayloadError as error:
        raise FieldError(str(error), describe(task_type)) from error


def describe(task_type: TaskType[Any]) -> list[str]:
    """The fields of a type, one a line: flag, type, default."""
    rows = [
        (f"--{name.replace('_', '-')}", _type_name(info), _default(info)) for name, info in task_type.cls.model_fields.items()
    ]
    if not rows:
        return [f"  {task_type.name} has no fields"]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"  {flag:<{widths[0]}}  {kind:<{widths[1]}}  {default}" for flag, kind, default in rows]


def _pairs(words: Sequence[str]) -> dict[str, list[str]]:
    """`--name text`, `--name=text` (split at the first `=`) and `--name` alone, gathered by name."""
    pairs: dict[str, list[str]] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise PayloadError(f"{word!r} belongs to no field: write --field value")
        name, given, text = word[2:].partition("=")
        if not given:
            text = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        pairs.setdefault(name, []).append(text)
    return pairs


def _object(document: str | None) -> dict[str, Any]:
    try:
        value = {} if document is None else json.loads(document)
    except ValueError as error:
        raise PayloadError(f"--payload is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise PayloadError('--payload takes a JSON object such as \'{"to": "ann@example.com"}\'')
    return value


def _field(fields: Mapping[str, FieldInfo], name: str) -> tuple[str, FieldInfo]:
    """A field by its name or alias; `-` and `_` are one, as flags are usually written."""
    wanted = name.replace("-", "_")
    for key, info in fields.items():
        if wanted in (key, (info.alias or key).replace("-", "_")):
            return key, info
    raise PayloadError(f"there is no field --{name}")


def _read(info: FieldInfo, name: str, texts: list[str]) -> Any:
    """The first reading that the field accepts; the text itself where none is, so that the error is about what was written."""
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[info.annotation, info])  # type: ignore[arg-type]  # a type known at run time
    text: Any = texts[0] if len(texts) == 1 else texts
    readings: list[tuple[Any, bool]] = [(text, True)] if info.annotation is not Any else []
    if len(texts) == 1:
        readings += [(_json(text), False), (text, False)]
    readings += [(texts, True), ([_json(one) for one in texts], False), (texts, False)]
    for value, strict in readings:
        try:
            adapter.validate_json(json.dumps(value), strict=strict)
            return value
        except ValidationError:
            continue
    return text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _type_name(info: FieldInfo) -> str:
    from pydantic._internal._repr import display_as_type

    return display_as_type(info.annotation)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if info.default_factory is not None:
        return "has a default"
    return f"default {json.dumps(info.default, default=str, ensure_ascii=False)}"
