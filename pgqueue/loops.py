"""The event loop of a program: uvloop where it is installed, and one that a stray `SystemExit` does not end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

RV = TypeVar("RV")
logger = logging.getLogger("pgqueue.loops")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, if the extra `fast` is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def drive(main: Coroutine[Any, Any, RV]) -> RV:
    """Run a program's main coroutine to its end.

    asyncio lets SystemExit and KeyboardInterrupt of any asyncio.Task, one that user code started included, break out of the
    loop. That must not end a runner: it is logged, and the loop goes on.
    """
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        loop = runner.get_loop()
        task = loop.create_task(main)
        while True:
            try:
                return loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done():
                    raise
                logger.error("%s was raised by a background task of user code; the runner goes on", type(error).__name__)
