"""The event loop of a program: uvloop where it is installed, and one that a stray `SystemExit` does not end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

RV = TypeVar("RV")
logger = logging.getLogger("pgqueue.loops")
LET_GO_SECONDS = 3.0
"""How long the end of a program waits for what user code left running on its loop."""
LEAVE_SECONDS = 5.0
"""How long its process waits after that for threads that user code left running."""


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
    loop. That must not end a runner: it is logged, and the loop goes on. Threads that were started meanwhile and do not end
    hold the process for a few seconds after its main thread, and no longer.
    """
    threads_before = set(threading.enumerate())
    factory = loop_factory() or asyncio.new_event_loop
    loop = factory()
    asyncio.set_event_loop(loop)
    # Ours, for its end: the loop's own shutdown_default_executor() joins its threads, whatever deadline stands around it.
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)
    exit_code = 1
    try:
        result = _outlast(loop, loop.create_task(main))
        exit_code = 0
        return result
    finally:
        try:
            _outlast(loop, loop.create_task(_let_go()))
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            asyncio.set_event_loop(None)
            loop.close()
            _hold_no_longer(set(threading.enumerate()) - threads_before, exit_code)


def _outlast(loop: asyncio.AbstractEventLoop, task: asyncio.Task[RV]) -> RV:
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            logger.error("%s was raised by a background task of user code; the runner goes on", type(error).__name__)


async def _let_go() -> None:
    """Cancel what user code left running. One that ignores it is not waited for much longer."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        _, stubborn = await asyncio.wait(left, timeout=LET_GO_SECONDS)
        if stubborn:
            logger.warning("%s background tasks of user code ignore their cancellation; they are left behind", len(stubborn))
    await asyncio.get_running_loop().shutdown_asyncgens()


def _hold_no_longer(threads: Iterable[threading.Thread], exit_code: int) -> None:
    """Let these threads keep the process for LEAVE_SECONDS after the main thread has ended, then leave without them.

    Python joins every thread that is no daemon before it exits, those of asyncio.to_thread and of pools included.
    """
    left = [thread for thread in threads if not thread.daemon and thread.is_alive()]
    if left:
        main_ended = threading.Event()
        threading.Thread(target=_leave, args=(left, main_ended, exit_code), name="pgqueue-leave", daemon=True).start()
        # Private, but the one moment between the main thread's end and Python's joins: atexit comes after them, and up to
        # Python 3.12 the main thread counts as alive while concurrent.futures, which uses this hook too, joins its pools.
        threading._register_atexit(main_ended.set)  # type: ignore[attr-defined]  # typeshed leaves it out


def _leave(threads: Iterable[threading.Thread], main_ended: threading.Event, exit_code: int) -> None:
    main_ended.wait()
    deadline = time.monotonic() + LEAVE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if stubborn := [thread.name for thread in threads if thread.is_alive()]:
        logger.warning("threads of user code do not end (%s); the process ends with them", ", ".join(stubborn))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(exit_code)
