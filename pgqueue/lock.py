"""`Lock` and `AsyncLock`: a lock by name, held for a time to live by the database's clock. They go through their client."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

import psycopg

from pgqueue import lock_operations
from pgqueue.database import arun, run
from pgqueue.errors import PgQueueError
from pgqueue.holding import Holding, logger
from pgqueue.lock_operations import Attempt
from pgqueue.locking import Wish, check_ttl, renewal_pause
from pgqueue.records import LockRecord

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, Queue

GIVE_BACK_SECONDS = 2.0
"""How long a cancelled acquire tries to give back what it may have taken."""
_TROUBLE = (psycopg.Error, PgQueueError, OSError)


class Lock(Holding):
    """A lock by name: `with queue.lock("report", ttl=timedelta(minutes=1)) as token:`. See `Queue.lock`."""

    def __init__(self, queue: Queue, wish: Wish) -> None:
        super().__init__(queue._sql, wish)
        self._queue = queue
        self._last = Attempt(None, None, 0.0)
        self._renewal: tuple[threading.Thread, threading.Event] | None = None

    def acquire(self, *, wait: bool = True, timeout: float | timedelta | None = None) -> int | None:
        """Take the lock, and give its fencing token; None: it did not come free.

        wait=False tries once; timeout in seconds, None waits without end. Raises ConfigurationError where this object holds it
        already, DatabaseUnavailable when the server does not answer: it may be taken then, until its time to live has passed.
        """
        claim_id, waiting = self._begin(wait, timeout)
        while True:
            taking = self._taking(claim_id)
            try:
                self._last = self._queue._run(taking)
            except (KeyboardInterrupt, SystemExit):
                self._give_back(claim_id)
                raise
            if self._last.token is not None:
                return self._taken(claim_id, self._last.token, taking.at)
            pause = waiting.pause(self._last.left_seconds, now=time.monotonic(), random=random.random)
            if pause is None:
                return None
            time.sleep(pause)

    def extend(self, ttl: timedelta | None = None) -> bool:
        """Hold it for `ttl` from now, that of the lock unless given. False: it is lost, or was not acquired."""
        wanted, claim_id = self._wish.ttl if ttl is None else check_ttl(ttl), self._claim_id
        if claim_id is None:
            return False
        extending = self._extending(claim_id, wanted)
        extended = self._queue._run(extending)
        return self._extended(claim_id, wanted, extending.at, extended=extended)

    def release(self) -> bool:
        """Let go of it, at once. False: it was lost before, or not acquired; then nothing happens to whoever holds it now."""
        claim_id = self._claim_id
        if claim_id is None:
            return False
        return self._released(self._queue._pool.perform(self._releasing(claim_id)))

    def holder(self) -> LockRecord | None:
        """Who holds it now, by the database's clock. None: nobody."""
        return self._queue._run(lambda: lock_operations.get(self._sql, self.name))

    def __enter__(self) -> int:
        token = self.acquire(timeout=self._wish.timeout_seconds)
        if token is None:
            raise self._timeout_error(self._last)
        if self._wish.renew:
            self._start_renewing()
        return token

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop_renewing()
        try:
            if self._claim_id is not None:
                self.release()
        except _TROUBLE as trouble:
            if error is None:
                raise
            logger.warning("lock %r could not be released, and frees itself: %s", self.name, trouble)
        if self.lost and error is None:
            raise self._lost_error()
        if self.lost and error is not None:
            error.add_note(str(self._lost_error()))

    def _start_renewing(self) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=self._renew, args=(stop,), name=f"pgqueue lock {self.name}", daemon=True)
        self._renewal = thread, stop
        thread.start()

    def _stop_renewing(self) -> None:
        if self._renewal is not None:
            thread, stop = self._renewal
            stop.set()
            thread.join()
            self._renewal = None

    def _renew(self, stop: threading.Event) -> None:
        """Extend the lock again and again, until told to stop or it is lost."""
        failed = False
        while not stop.wait(renewal_pause(self._wish.ttl, failed=failed)):
            try:
                failed = False
                if not self._renewed(self.extend()):
                    return
            except _TROUBLE as error:
                failed = True
                if not self._not_renewed(error):
                    return

    def _give_back(self, claim_id: uuid.UUID) -> None:
        """What was taken by a statement that nobody waits for any more. Tried once: it frees itself otherwise."""
        try:
            with self._queue._connection() as connection:
                run(connection, lock_operations.release(self._sql, self.name, claim_id, believed=False))
        except _TROUBLE as error:
            logger.warning("lock %r may be held until its time to live has passed: %s", self.name, error)


class AsyncLock(Holding):
    """A lock by name: `async with queue.lock("report", ttl=timedelta(minutes=1)) as token:`. As `Lock`, to be awaited."""

    def __init__(self, queue: AsyncQueue, wish: Wish) -> None:
        super().__init__(queue._sql, wish)
        self._queue = queue
        self._last = Attempt(None, None, 0.0)
        self._renewal: tuple[asyncio.Task[None], asyncio.Event] | None = None

    async def acquire(self, *, wait: bool = True, timeout: float | timedelta | None = None) -> int | None:
        """Take the lock, and give its fencing token; None: it did not come free. As Lock.acquire.

        One that is cancelled gives back what it may have taken.
        """
        claim_id, waiting = self._begin(wait, timeout)
        while True:
            taking = self._taking(claim_id)
            try:
                self._last = await self._queue._run(taking)
            except asyncio.CancelledError:
                await self._give_back(claim_id)
                raise
            if self._last.token is not None:
                return self._taken(claim_id, self._last.token, taking.at)
            pause = waiting.pause(self._last.left_seconds, now=time.monotonic(), random=random.random)
            if pause is None:
                return None
            await asyncio.sleep(pause)

    async def extend(self, ttl: timedelta | None = None) -> bool:
        """Hold it for `ttl` from now, that of the lock unless given. False: it is lost, or was not acquired."""
        wanted, claim_id = self._wish.ttl if ttl is None else check_ttl(ttl), self._claim_id
        if claim_id is None:
            return False
        extending = self._extending(claim_id, wanted)
        extended = await self._queue._run(extending)
        return self._extended(claim_id, wanted, extending.at, extended=extended)

    async def release(self) -> bool:
        """Let go of it, at once. False: it was lost before, or not acquired; then nothing happens to whoever holds it now."""
        claim_id = self._claim_id
        if claim_id is None:
            return False
        return self._released(await self._queue._pool.perform(self._releasing(claim_id)))

    async def holder(self) -> LockRecord | None:
        """Who holds it now, by the database's clock. None: nobody."""
        return await self._queue._run(lambda: lock_operations.get(self._sql, self.name))

    async def __aenter__(self) -> int:
        token = await self.acquire(timeout=self._wish.timeout_seconds)
        if token is None:
            raise self._timeout_error(self._last)
        if self._wish.renew:
            stop = asyncio.Event()
            self._renewal = asyncio.create_task(self._renew(stop), name=f"pgqueue lock {self.name}"), stop
        return token

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop_renewing()
        try:
            if self._claim_id is not None:
                await self.release()
        except _TROUBLE as trouble:
            if error is None:
                raise
            logger.warning("lock %r could not be released, and frees itself: %s", self.name, trouble)
        if self.lost and error is None:
            raise self._lost_error()
        if self.lost and error is not None:
            error.add_note(str(self._lost_error()))

    async def _stop_renewing(self) -> None:
        if self._renewal is not None:
            renewal, stop = self._renewal
            self._renewal = None
            stop.set()
            await renewal

    async def _renew(self, stop: asyncio.Event) -> None:
        """Extend the lock again and again, until told to stop or it is lost."""
        failed = False
        while not await _is_set_within(stop, renewal_pause(self._wish.ttl, failed=failed)):
            try:
                failed = False
                if not self._renewed(await self.extend()):
                    return
            except _TROUBLE as error:
                failed = True
                if not self._not_renewed(error):
                    return

    async def _give_back(self, claim_id: uuid.UUID) -> None:
        """What was taken by a statement that nobody waits for any more. Tried once: it frees itself otherwise."""
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                async with self._queue._connection() as connection:
                    await arun(connection, lock_operations.release(self._sql, self.name, claim_id, believed=False))
        except _TROUBLE as error:  # TimeoutError among them
            logger.warning("lock %r may be held until its time to live has passed: %s", self.name, error)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
