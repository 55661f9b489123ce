"""The event loop of a program: uvloop where it is installed, and one that a stray `SystemExit` does not end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

RV = TypeVar("RV")
logger = logging.getLogger("pgqueue.loops")
LET_GO_SECONDS = 3.0
"""How long the end of a program waits for what user code left running on its loop."""


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
    factory = loop_factory() or asyncio.new_event_loop
    loop = factory()
    asyncio.set_event_loop(loop)
    try:
        return _outlast(loop, loop.create_task(main))
    finally:
        try:
            _outlast(loop, loop.create_task(_let_go()))
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _outlast(loop: asyncio.AbstractEventLoop, task: asyncio.Task[RV]) -> RV:
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            logger.error("%s was raised by a background task of user code; the runner goes on", type(error).__name__)


async def _let_go() -> None:
    """Cancel what user code left running. One that ignores it, or a thread that never ends, is not waited for much longer."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        _, stubborn = await asyncio.wait(left, timeout=LET_GO_SECONDS)
        if stubborn:
            logger.warning("%s background tasks of user code ignore their cancellation; they are left behind", len(stubborn))
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    try:
        await asyncio.wait_for(loop.shutdown_default_executor(), LET_GO_SECONDS)
    except TimeoutError:
        logger.warning("threads of asyncio.to_thread are still running; the process ends with them")
