"""Middleware: user code around the work of an attempt, layer by layer. Stands beside executor.py; never touches a row.

A sync layer or a sync `run` gets a thread, an async one the loop. Where one kind stands inside the other, the way goes from the
loop into a thread and back: layers of the kind of `run` cost nothing but their own calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from pgqueue.task_hooks import Hook

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Layers:
    """The layers of one attempt, outermost first, around its work. Used once, and begun on the loop or off it."""

    def __init__(
        self, layers: Sequence[Hook], subject: Any, work: Callable[[], Any], *, is_async: bool, in_thread: InThread
    ) -> None:
        self._layers = layers
        self._subject = subject
        self._work = work
        self._is_async = (*(layer.is_async for layer in layers), is_async)
        self._in_thread = in_thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inside: set[asyncio.Task[Any]] = set()
        self._given_up = False

    @property
    def needs_loop(self) -> bool:
        """Whether anything in here is async."""
        return any(self._is_async)

    async def run(self) -> Any:
        """The work with all that is around it, on this loop."""
        self._loop = asyncio.get_running_loop()
        return await self._on_loop(0)

    def run_sync(self) -> Any:
        """The same in this thread, where nothing in here is async."""
        return self._off_loop(0)

    async def _on_loop(self, index: int) -> Any:
        """This layer and what it encloses; the work comes after the last layer."""
        if not self._is_async[index]:
            return await self._threaded(index)
        if index == len(self._layers):
            return await self._work()
        return await self._layers[index].function(self._subject, partial(self._on_loop, index + 1))

    def _off_loop(self, index: int) -> Any:
        """The same, from a thread."""
        if self._is_async[index]:
            return self._back_on_loop(index)
        if index == len(self._layers):
            return self._work()
        return self._layers[index].function(self._subject, partial(self._off_loop, index + 1))

    async def _threaded(self, index: int) -> Any:
        try:
            return await self._in_thread(partial(self._off_loop, index))
        except asyncio.CancelledError:
            # The thread cannot be interrupted, but what it waits for on the loop can.
            self._given_up = True
            inside = list(self._inside)
            for running in inside:
                running.cancel()
            if inside:
                await asyncio.wait(inside)
            raise

    def _back_on_loop(self, index: int) -> Any:
        assert self._loop is not None
        result, error = asyncio.run_coroutine_threadsafe(self._enclosed(index), self._loop).result()
        if error is not None:
            raise error
        return result

    async def _enclosed(self, index: int) -> tuple[Any, BaseException | None]:
        """What a thread waits for. Never raises: SystemExit would end the loop."""
        me = asyncio.current_task()
        assert me is not None
        if self._given_up:
            return None, asyncio.CancelledError()
        self._inside.add(me)
        try:
            return await self._on_loop(index), None
        except BaseException as error:
            return None, error
        finally:
            self._inside.discard(me)
