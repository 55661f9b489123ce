"""What an operator may set of a task type over its code: checked, stored in `task_type.overrides`, and read back. Ground: pure.

An override wins over the option in the code, and what one enqueue says of its own task wins over both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from typing_extensions import TypedDict

from pgqueue.definition import TaskType
from pgqueue.errors import ConfigurationError
from pgqueue.requests import check_positive, check_priority
from pgqueue.retry import Retry
from pgqueue.task import Task

T = TypeVar("T", bound=Task[Any])
CONCURRENCY_MAX = 1_000_000
RATE_COUNT_MAX = 1_000_000_000
_RATE = re.compile(r"([1-9][0-9]{0,9}) ?/ ?(second|minute|hour|day)", re.ASCII)


class TypeOptions(TypedDict, total=False):
    """What may be set of a task type; what is left out stays as it is. None: without a timeout, without a limit."""

    priority: int
    retry: Retry
    timeout: timedelta | None
    max_concurrency: int | None
    rate_limit: str | None


STORED = {name: f"{name}_seconds" if name == "timeout" else name for name in TypeOptions.__annotations__}
"""What each option is called in the JSON, as in the options of the code (TaskType.described_options)."""


def check_type_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be set, as JSON values by their stored names: something, and nothing unknown. Raises ConfigurationError."""
    if not options:
        raise ConfigurationError(f"types.update was given nothing to set; it takes {', '.join(STORED)}")
    check_option_names(list(options), "types.update")
    return {STORED[name]: _WRITERS[name](value) for name, value in options.items()}


def check_option_names(names: Sequence[object], what: str) -> list[str]:
    """The stored names of these options. Raises ConfigurationError."""
    for name in names:
        if not isinstance(name, str) or name not in STORED:
            raise ConfigurationError(f"{what} has no option {name!r:.200}; it takes {', '.join(STORED)}")
    return [STORED[str(name)] for name in names]


def read(stored: object) -> tuple[TypeOptions, list[str]]:
    """The options of `task_type.overrides`, and what of it cannot be read, in words: anybody may write there."""
    if not isinstance(stored, dict):
        return {}, [f"the overrides are {stored!r:.200}, not a JSON object"]
    options: dict[str, Any] = {}
    complaints = []
    for name, key in STORED.items():  # others: a newer program may know them
        if key in stored:
            try:
                options[name] = _READERS[name](stored[key])
            except ConfigurationError as error:
                complaints.append(f"{key}: {error}")
    return options, complaints  # type: ignore[return-value]  # each was read as what its name stands for


def overridden(task_type: TaskType[T], stored: Any) -> TaskType[T]:
    """The type as it is to run. A retry override replaces `next_try` and the code's policy, but for `on` and `unless` of that:
    which errors are worth another try is the code's knowledge. What cannot be read is left as the code has it."""
    options, _ = read(stored)
    if not options:
        return task_type
    changes: dict[str, Any] = {name: value for name, value in options.items() if name in ("priority", "timeout")}
    if "retry" in options:
        code = task_type.retry
        policy = options["retry"]
        changes["retry"] = policy if code is None else replace(policy, on=code.on, unless=code.unless)
        changes["asks_next_try"] = False
    return replace(task_type, **changes, overrides=stored)


def in_force(options: Mapping[str, Any], stored: object) -> dict[str, Any]:
    """A type's options as they apply, as JSON: those of the code with the overrides on top."""
    read_options, _ = read(stored)
    over: dict[str, Any] = {STORED[name]: value for name, value in read_options.items()}
    if "retry" in read_options:
        over["retry"] = read_options["retry"].describe()
    if read_options.get("timeout") is not None:
        over["timeout_seconds"] = over["timeout_seconds"].total_seconds()
    return {**options, **over}


def check_max_concurrency(count: Any) -> int:
    """How many tasks of a type may run at a time."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= CONCURRENCY_MAX:
        raise ConfigurationError(f"max_concurrency takes a whole number from 1 to {CONCURRENCY_MAX:,}, not {count!r:.200}")
    return int(count)


def check_rate_limit(rate: Any) -> str:
    """How many tasks of a type may start in a window, as `100/minute`."""
    match = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    if match is None or int(match[1]) > RATE_COUNT_MAX:
        raise ConfigurationError(
            f'rate_limit takes a number of up to {RATE_COUNT_MAX:,} and a window, such as "100/minute", not {rate!r:.200}; '
            "the windows are second, minute, hour and day"
        )
    return f"{match[1]}/{match[2]}"


def _write_retry(retry: Any) -> dict[str, Any]:
    if not isinstance(retry, Retry):
        raise ConfigurationError(f"retry takes Retry(max_attempts=...), and Retry(max_attempts=1) for none, not {retry!r:.200}")
    if retry.on is not None or retry.unless is not None:
        raise ConfigurationError(
            "retry= of a type's override is stored as JSON, and on= and unless= are code: leave them out, those of the type "
            "itself stay in force"
        )
    return retry.as_json()


def _read_retry(stored: Any) -> Retry:
    try:
        return Retry.from_json(stored)
    except (OverflowError, TypeError, ValueError) as error:
        raise ConfigurationError(f"retry {stored!r:.200} is no policy: {error}") from error


def _read_timeout(seconds: Any) -> timedelta:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ConfigurationError(f"timeout takes a number of seconds, not {seconds!r:.200}")
    try:
        return check_positive(timedelta(seconds=seconds), "timeout")
    except (OverflowError, ValueError) as error:
        raise ConfigurationError(f"timeout of {seconds!r:.200} seconds is none: {error}") from error


def _or_none(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same check for an option that may be lifted altogether."""
    return lambda value: None if value is None else check(value)


_WRITERS: dict[str, Callable[[Any], Any]] = {
    "priority": check_priority,
    "retry": _write_retry,
    "timeout": _or_none(lambda value: check_positive(value, "timeout").total_seconds()),
    "max_concurrency": _or_none(check_max_concurrency),
    "rate_limit": _or_none(check_rate_limit),
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "priority": check_priority,
    "retry": _read_retry,
    "timeout": _or_none(_read_timeout),
    "max_concurrency": _or_none(check_max_concurrency),
    "rate_limit": _or_none(check_rate_limit),
}
