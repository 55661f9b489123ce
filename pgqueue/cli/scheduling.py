"""From the flags of `pgqueue schedules` to what the client takes."""

from __future__ import annotations

import json
from typing import Any

from pgqueue.cli.lookup import instant
from pgqueue.durations import parse_duration
from pgqueue.errors import ConfigurationError
from pgqueue.schedule_requests import ScheduleOptions

NONE = "none"
"""What takes a bound away."""


def options_of(**flags: Any) -> ScheduleOptions:
    """The options that were given. Raises ConfigurationError."""
    options: Any = {name: value for name, value in flags.items() if value is not None and value != []}
    for name in ("start_at", "end_at", "max_runs", "expires", "timeout"):
        if name in options:
            options[name] = None if options[name] == NONE else _read(name, options[name])
    result: ScheduleOptions = options
    return result


def document_of(text: str | None) -> dict[str, Any] | None:
    """A payload as a JSON object. Raises ConfigurationError."""
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"--payload is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError('--payload takes a JSON object such as \'{"to": "ann@example.com"}\'')
    return document


def _read(name: str, text: str) -> Any:
    if name in ("expires", "timeout"):
        return parse_duration(text)
    if name != "max_runs":
        return instant(text, f"--{name.replace('_', '-')}")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ConfigurationError(f"--max-runs takes a whole number from 1 on, or none, not {text[:80]!r}")
    return int(text)
