"""`queue.schedules`: recurring definitions made and changed at run time. Schedulers take up each change within a few seconds.

`Schedules` is the blocking kind, `AsyncSchedules` the awaitable one; both speak schedule_operations.py. `app` is the owner, by
default this program's (the setting `app`): a name is taken once in an app.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from pgqueue import schedule_operations as operations
from pgqueue.handles import AsyncTaskHandle, TaskHandle
from pgqueue.preparation import new_id
from pgqueue.schedule_records import Schedule, SchedulePage, SlotRecord
from pgqueue.schedule_requests import (
    Definition,
    Name,
    Page,
    ScheduleOptions,
    check_changes,
    check_limit,
    check_schedule_name,
    check_schedule_page,
    define_schedule,
    redefine,
)
from pgqueue.task import Task

if TYPE_CHECKING:
    from pgqueue.client import AsyncQueue, Queue

Target = Task[Any] | type[Task[Any]] | str
"""What is enqueued: a task, or its class or the name of its type, with the payload's values beside it."""
Values = Mapping[str, Any]


class Schedules:
    """The schedules of a blocking `Queue`."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def create(
        self,
        name: str,
        task: Target,
        payload: Values | None = None,
        *,
        app: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Make a schedule; of one that was made by that name before, the same one with this definition, and the same id.

        One of frequency, cron and rrule says when it is due; the last two with `timezone` (UTC). start_at: no slot before it, and
        the grid of a frequency; end_at: none after it; max_runs: so many slots enqueue a task, then it ends. missed: what becomes
        of slots that no scheduler was there for, "last", "skip" or "all". queue, priority, expires, timeout, retry, unique and
        tags as of an enqueue. A definition that is there already moves no slot, so a program may create its schedules whenever
        it starts; a pause stays.
        Raises ConfigurationError, PayloadError, UnknownTask: also for one that never comes, and a name that code declares.
        """
        key, wanted = _name(self._queue, name, app), _defined(self._queue, task, payload, options)
        return self._queue._pool.perform(
            lambda repeated: operations.create(self._queue._sql, key, wanted), needs_transaction=_always
        )

    def update(
        self,
        name: str,
        *,
        task: Target | None = None,
        payload: Values | None = None,
        app: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Change what is given; what is left out stays, and None takes a bound or an option of the enqueue away.

        Another recurrence or start_at makes the next slot anew; an ended schedule with slots to come goes on.
        A new payload, or `unique`, needs the task's class to be known here. Raises as `create`, and ScheduleNotFound.
        """
        key, changed = _name(self._queue, name, app), _redefined(self._queue, task, payload, options)
        return self._queue._pool.perform(
            lambda repeated: operations.update(self._queue._sql, key, changed), needs_transaction=_always
        )

    def pause(self, name: str, *, app: str | None = None) -> Schedule:
        """Let no slot fire until it is resumed; restarts and deployments change nothing of that. Raises ScheduleNotFound."""
        key = _name(self._queue, name, app)
        return self._queue._run(lambda: operations.pause(self._queue._sql, key, pauses=True))

    def resume(self, name: str, *, app: str | None = None) -> Schedule:
        """Let it go on. Slots that went by meanwhile are treated as missed ones, by its policy. Raises ScheduleNotFound."""
        key = _name(self._queue, name, app)
        return self._queue._run(lambda: operations.pause(self._queue._sql, key, pauses=False))

    def delete(self, name: str, *, app: str | None = None) -> bool:
        """Forget a schedule; its tasks stay. False: there was none. Raises ConfigurationError for one that code declares."""
        key = _name(self._queue, name, app)
        return self._queue._pool.perform(lambda repeated: operations.delete(self._queue._sql, key, repeated=repeated))

    def trigger(self, name: str, *, app: str | None = None) -> TaskHandle[Any]:
        """Enqueue its task now, also when it is paused or has ended. No slot is moved, and max_runs does not count it.

        `created` False: its unique task is unfinished; this is that one. Raises ScheduleNotFound, EnqueueConflict.
        """
        key, task_id = _name(self._queue, name, app), new_id()
        inserted, type_name = self._queue._pool.perform(
            lambda repeated: operations.trigger(self._queue._sql, key, task_id, repeated=repeated), needs_transaction=_always
        )
        return TaskHandle(self._queue, inserted, type_name, committed=True)

    def get(self, name: str, *, app: str | None = None) -> Schedule | None:
        """A schedule by its name; None when there is none."""
        key = _name(self._queue, name, app)
        return self._queue._run(lambda: operations.get(self._queue._sql, key))

    def list(
        self, *, app: str | None = None, type: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> SchedulePage:
        """Schedules by app and name, those of all apps unless one is named, ended ones included; a page of up to 1,000."""
        page = _page(self._queue, app=app, type=type, limit=limit, cursor=cursor)
        return self._queue._run(lambda: operations.list_schedules(self._queue._sql, page))

    def slots(self, name: str, *, app: str | None = None, limit: int = 20) -> builtins.list[SlotRecord]:
        """What became of its newest slots, and what was triggered; up to 1,000, newest first. Raises ScheduleNotFound."""
        key, count = _name(self._queue, name, app), check_limit(limit)
        return self._queue._run(lambda: operations.slots(self._queue._sql, key, count))


class AsyncSchedules:
    """The schedules of an `AsyncQueue`: the same methods as those of `Schedules`, awaitable."""

    def __init__(self, queue: AsyncQueue) -> None:
        self._queue = queue

    async def create(
        self,
        name: str,
        task: Target,
        payload: Values | None = None,
        *,
        app: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Make a schedule, or make the one of that name this one, as Schedules.create does."""
        key, wanted = _name(self._queue, name, app), _defined(self._queue, task, payload, options)
        return await self._queue._pool.perform(
            lambda repeated: operations.create(self._queue._sql, key, wanted), needs_transaction=_always
        )

    async def update(
        self,
        name: str,
        *,
        task: Target | None = None,
        payload: Values | None = None,
        app: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Change what is given, as Schedules.update does."""
        key, changed = _name(self._queue, name, app), _redefined(self._queue, task, payload, options)
        return await self._queue._pool.perform(
            lambda repeated: operations.update(self._queue._sql, key, changed), needs_transaction=_always
        )

    async def pause(self, name: str, *, app: str | None = None) -> Schedule:
        """Let no slot fire until it is resumed. Raises ScheduleNotFound."""
        key = _name(self._queue, name, app)
        return await self._queue._run(lambda: operations.pause(self._queue._sql, key, pauses=True))

    async def resume(self, name: str, *, app: str | None = None) -> Schedule:
        """Let it go on. Raises ScheduleNotFound."""
        key = _name(self._queue, name, app)
        return await self._queue._run(lambda: operations.pause(self._queue._sql, key, pauses=False))

    async def delete(self, name: str, *, app: str | None = None) -> bool:
        """Forget a schedule. False: there was none. Raises ConfigurationError for one that code declares."""
        key = _name(self._queue, name, app)
        return await self._queue._pool.perform(lambda repeated: operations.delete(self._queue._sql, key, repeated=repeated))

    async def trigger(self, name: str, *, app: str | None = None) -> AsyncTaskHandle[Any]:
        """Enqueue its task now, as Schedules.trigger does."""
        key, task_id = _name(self._queue, name, app), new_id()
        inserted, type_name = await self._queue._pool.perform(
            lambda repeated: operations.trigger(self._queue._sql, key, task_id, repeated=repeated), needs_transaction=_always
        )
        return AsyncTaskHandle(self._queue, inserted, type_name, committed=True)

    async def get(self, name: str, *, app: str | None = None) -> Schedule | None:
        """A schedule by its name; None when there is none."""
        key = _name(self._queue, name, app)
        return await self._queue._run(lambda: operations.get(self._queue._sql, key))

    async def list(
        self, *, app: str | None = None, type: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> SchedulePage:
        """Schedules by app and name, as Schedules.list does."""
        page = _page(self._queue, app=app, type=type, limit=limit, cursor=cursor)
        return await self._queue._run(lambda: operations.list_schedules(self._queue._sql, page))

    async def slots(self, name: str, *, app: str | None = None, limit: int = 20) -> builtins.list[SlotRecord]:
        """What became of its newest slots, as Schedules.slots does."""
        key, count = _name(self._queue, name, app), check_limit(limit)
        return await self._queue._run(lambda: operations.slots(self._queue._sql, key, count))


def _always(repeated: bool) -> bool:
    return True


def _name(queue: Queue | AsyncQueue, name: object, app: str | None) -> Name:
    return check_schedule_name(name, app, queue.settings)


def _page(queue: Queue | AsyncQueue, **wanted: Any) -> Page:
    return check_schedule_page(queue.registry, **wanted)


def _defined(queue: Queue | AsyncQueue, task: object, payload: object, options: Mapping[str, Any]) -> Definition:
    return define_schedule(task, payload, options, registry=queue.registry, settings=queue.settings)


def _redefined(
    queue: Queue | AsyncQueue, task: object, payload: object, options: Mapping[str, Any]
) -> Callable[[Schedule], Definition]:
    """What makes the new definition of the stored one. Raises ConfigurationError at once for what is wrong in itself."""
    check_changes(task, payload, options)
    return lambda known: redefine(known, task, payload, options, registry=queue.registry, settings=queue.settings)
