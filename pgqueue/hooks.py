"""What a runner does when it starts and stops, as the program asks with `@on_runner_start` and `@on_runner_stop`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from pgqueue.errors import ConfigurationError

logger = logging.getLogger("pgqueue.hooks")
F = TypeVar("F", bound=Callable[..., Any])

_on_start: list[Callable[..., Any]] = []
_on_stop: list[Callable[..., Any]] = []


def on_runner_start(function: F) -> F:
    """Call this when a runner process starts, with the dict that becomes `context.resources`; sync or async.

    What it raises stops the runner before it claims anything.
    """
    return _register(_on_start, function)


def on_runner_stop(function: F) -> F:
    """Call this when a runner process has finished its tasks, with `context.resources`; sync or async."""
    return _register(_on_stop, function)


async def call_start_hooks(resources: dict[str, Any]) -> None:
    """In the order of registration."""
    for function in _on_start:
        await _call(function, resources)


async def call_stop_hooks(resources: dict[str, Any]) -> None:
    """In the reverse order, each even if another failed: what one raises is logged, since the tasks have ended by then."""
    for function in reversed(_on_stop):
        try:
            await _call(function, resources)
        except Exception:  # user code
            logger.exception("a hook at the runner's end failed: %s", getattr(function, "__qualname__", function))


def _register(functions: list[Callable[..., Any]], function: F) -> F:
    if not callable(function):  # a decorator's argument is whatever stands below it
        raise ConfigurationError(f"a runner hook is a function of one argument, the resources, not {function!r}")
    if function not in functions:
        functions.append(function)
    return function


async def _call(function: Callable[..., Any], resources: dict[str, Any]) -> None:
    result = function(resources)
    if inspect.isawaitable(result):
        await result
