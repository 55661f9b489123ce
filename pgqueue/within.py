"""Awaiting a coroutine with every step of it in a context of its own: variables that an attempt sets end with it."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Within:
    """Awaits a coroutine with every step of it in a context of its own."""

    __slots__ = ("_coroutine", "_variables")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], variables: contextvars.Context) -> None:
        self._coroutine = coroutine
        self._variables = variables

    def __await__(self) -> Generator[Any, Any, Any]:
        run, send, throw = self._variables.run, self._coroutine.send, self._coroutine.throw
        step: Callable[..., Any] = send
        argument: Any = None
        try:
            while True:
                waited_for = run(step, argument)
                try:
                    argument = yield waited_for
                    step = send
                except BaseException as error:
                    argument, step = error, throw
        except StopIteration as stop:
            return stop.value
