"""`queue.locks`: which named locks are held, and taking one away from its holder. To hold one oneself is `queue.lock`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqueue import lock_operations
from pgqueue.locking import check_lock_page
from pgqueue.records import LockPage, LockRecord
from pgqueue.requests import check_name

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, Queue


class Locks:
    """The named locks of a schema, seen from outside."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def list(self, *, limit: int = 100, cursor: str | None = None) -> LockPage:
        """The locks that are held, by name, a page of up to 1,000. `cursor` is that of the page before."""
        count, after = check_lock_page(limit, cursor)
        return self._queue._run(lambda: lock_operations.list_locks(self._queue._sql, count, after))

    def get(self, name: str) -> LockRecord | None:
        """Who holds a lock, by the database's clock. None: nobody."""
        checked = check_name(name, "a lock")
        return self._queue._run(lambda: lock_operations.get(self._queue._sql, checked))

    def release(self, name: str) -> LockRecord | None:
        """Take a lock away from its holder, who is told by `lost`, and say who that was. None: nobody held it.

        The holder is not stopped: what it writes from now on is kept out by its older fencing token, where that is checked.
        """
        checked = check_name(name, "a lock")
        return self._queue._run(lambda: lock_operations.release_by_force(self._queue._sql, checked, self._queue._actor))


class AsyncLocks:
    """The same for AsyncQueue."""

    def __init__(self, queue: AsyncQueue) -> None:
        self._queue = queue

    async def list(self, *, limit: int = 100, cursor: str | None = None) -> LockPage:
        """The locks that are held, by name, as Locks.list does."""
        count, after = check_lock_page(limit, cursor)
        return await self._queue._run(lambda: lock_operations.list_locks(self._queue._sql, count, after))

    async def get(self, name: str) -> LockRecord | None:
        """Who holds a lock, by the database's clock. None: nobody."""
        checked = check_name(name, "a lock")
        return await self._queue._run(lambda: lock_operations.get(self._queue._sql, checked))

    async def release(self, name: str) -> LockRecord | None:
        """Take a lock away from its holder, as Locks.release does."""
        checked = check_name(name, "a lock")
        return await self._queue._run(lambda: lock_operations.release_by_force(self._queue._sql, checked, self._queue._actor))
