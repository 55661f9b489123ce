"""`Scheduler`: enqueues what recurs. `python -m pgqueue.scheduler` and a scheduler embedded in a program are both this.

At its start it writes down the schedules that its task types declare; from then on the rows of the table `schedule` are the
truth. A row is self-contained, so any scheduler fires those of any app, and several schedulers are harmless: schedule_fire.sql
decides a slot only if the row is still as it was read. It fires what recurs, and never runs a task.

Two versions of an app that are deployed at once do not argue for ever: each writes its schedules down once, at its start, and
the one that started last has its way. Connections: one to fire, one for the heart, which also rescues tasks of silent runners.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import socket
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from importlib import metadata
from types import TracebackType
from typing import Self

import psycopg

from pgqueue.client import AsyncQueue, Queue
from pgqueue.database import Rows, connection_parameters, is_lost
from pgqueue.errors import ConfigurationError, DatabaseUnavailable, PgQueueError
from pgqueue.heart import Heart, HeartThread, Identity, Pulse
from pgqueue.link import Link
from pgqueue.loops import drive
from pgqueue.preparation import new_id
from pgqueue.readiness import check_schema, register_types
from pgqueue.schedules import DueSchedule, Fired, definition
from pgqueue.settings import Settings

logger = logging.getLogger("pgqueue.scheduler")
DUE_BATCH = 500
LOCK_TIMEOUT = timedelta(milliseconds=500)
"""So long a firing waits for an open transaction that holds its unique key, before it is put off to the next round."""
JITTER_SECONDS = 0.02
"""Schedulers that sleep until the same instant wake up to this much later, so that one of them finds the work done."""
QUIET_POLLS, QUIET_SECONDS = 3, 3.0
"""Where nothing is due, schedules that somebody else has written down are looked for every third poll, or after this long."""
FAILURE_PAUSE_SECONDS = 0.3
STOP_SECONDS_MAX = 10.0
COMPLAINTS_MAX = 10_000
"""Schedules whose trouble is remembered, so that it is said once."""


class Scheduler:
    """Fires schedules until stopped: `async with Scheduler(queue): ...`, or `Scheduler(queue).run()`, which blocks.

    complete: this program has imported every module of its app, so schedules that it does not declare are disabled. observer:
    is told what became of each slot, once it is committed; called on the scheduler's loop, so it must be quick.
    """

    def __init__(
        self,
        queue: Queue | AsyncQueue | None = None,
        *,
        name: str | None = None,
        complete: bool = False,
        settings: Settings | None = None,
        observer: Callable[[Fired], None] | None = None,
    ) -> None:
        self._client = queue if queue is not None else AsyncQueue(settings=settings)
        self.settings = settings or self._client.settings
        self.id = uuid.uuid4()
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._app = self.settings.application()
        self._complete = complete
        self._observer = observer
        self._status = "new"
        self._complaints: dict[uuid.UUID | None, str] = {}

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises what `start` raises. Takes the main thread's event loop and signals."""
        drive(self._run_until_signalled())

    async def start(self) -> None:
        """Connect (waiting for a server that is not there yet), write the declared schedules down, and begin to fire.

        Raises ConfigurationError, PayloadError, SchemaError, DatabaseUnavailable.
        """
        if self._status != "new":
            raise PgQueueError("a scheduler is started once: make another one")
        self._status = "starting"
        self._build(await asyncio.to_thread(lambda: self._client.dsn))
        try:
            await self._come_up()
        except BaseException:
            await self._link.drop()
            raise
        self._heart.start()
        self._firing = asyncio.create_task(self._fire_forever(), name="pgqueue scheduler")
        self._status = "running"
        logger.info("scheduler %s is ready, for app %s", self.name, self._app)

    async def wait(self) -> None:
        """Wait until somebody has called `stop`."""
        await self._stopping.wait()

    async def stop(self) -> None:
        """Finish the firing that is under way, and leave. Harmless to repeat."""
        if self._status in ("new", "starting", "stopped"):
            return
        self._stopping.set()
        if self._status == "stopping":
            await self._stopped.wait()
            return
        self._status = "stopping"
        await asyncio.wait([self._firing], timeout=STOP_SECONDS_MAX)
        self._firing.cancel()
        await asyncio.gather(self._firing, return_exceptions=True)
        await asyncio.to_thread(self._heart.stop)
        await self._link.drop()
        self._status = "stopped"
        self._stopped.set()
        logger.info("scheduler %s has stopped", self.name)

    def _build(self, dsn: str) -> None:
        settings = self.settings
        self._sql = self._client._sql
        self._stopping, self._stopped = asyncio.Event(), asyncio.Event()
        parameters = connection_parameters(dsn, lease=settings.lease)
        self._link = Link(parameters, name="scheduler", deadline_seconds=settings.statement_deadline.total_seconds())
        identity = Identity(
            id=self.id,
            name=self.name,
            kind="scheduler",
            host=socket.gethostname(),
            pid=os.getpid(),
            version=metadata.version("pgqueue-tasks"),
            app=self._app,
            queues=None,
            types=None,
            concurrency=0,
        )

        def make() -> Heart:
            return Heart(
                dsn,
                self._sql,
                lease=settings.lease,
                heartbeat=settings.heartbeat,
                deadline=settings.statement_deadline,
                max_crashes=settings.max_crashes,
            )

        self._heart = HeartThread(make, Pulse(identity))

    async def _come_up(self) -> None:
        """All that needs the database before the first firing. A connection lost on the way is replaced, within the timeout."""
        give_up_at = time.monotonic() + self.settings.connect_timeout.total_seconds()
        while True:
            await self._link.wait_until_up(timeout_seconds=round(max(0.0, give_up_at - time.monotonic()), 3), say=logger.warning)
            try:
                await check_schema(self._link, self._sql)
                await self._sync()
                return
            except (psycopg.Error, DatabaseUnavailable) as error:
                if not is_lost(error):
                    raise
                if time.monotonic() > give_up_at:
                    raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {_line(error)}") from error
            await asyncio.sleep(FAILURE_PAUSE_SECONDS)

    async def _run_until_signalled(self) -> None:
        loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(self.start())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, starting.cancel)
        try:
            await starting
        except asyncio.CancelledError:
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        await self.wait()
        await self.stop()

    # ── what the code declares ──────────────────────────────────────────────────────────────────────────────────────

    async def _sync(self) -> None:
        """Make the rows of this app what its task types declare. Each row is a commit of its own; repeating it is harmless."""
        declared = [task_type for task_type in self._client.registry if task_type.recurrence is not None]
        await register_types(self._link, self._sql, declared)
        now = (await self._link.rows(self._sql.clock()))[0][0]
        for task_type in declared:
            if await self._link.rows(self._sql.schedule_sync(app=self._app, **definition(task_type, now, self.settings))):
                logger.info("schedule %s: %s", task_type.name, task_type.recurrence.describe() if task_type.recurrence else "")
        names = [one.name for one in declared]
        for (name,) in await self._link.rows(self._sql.schedule_taken(app=self._app, names=names)):
            logger.warning(
                "schedule %s was made at run time, so what code declares by that name has no schedule: delete or rename one", name
            )
        if self._complete:
            for (name,) in await self._link.rows(self._sql.schedule_disable(app=self._app, names=names)):
                logger.info("schedule %s is no longer declared: disabled", name)

    # ── firing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _fire_forever(self) -> None:
        """Fire what is due, sleep until the next is; outages are waited out, and nothing ends this but `stop`."""
        while not self._stopping.is_set():
            try:
                pause = await self.fire_due()
                self._complaints.pop(None, None)
            except (psycopg.Error, PgQueueError, OSError) as error:
                self._complain(None, "a round failed, trying on", error)
                pause = await self._recover()
            except Exception:
                logger.exception("a round failed, trying on")
                pause = await self._recover()
            try:
                await asyncio.wait_for(self._stopping.wait(), max(pause, 0.001))
            except TimeoutError:
                continue

    async def _recover(self) -> float:
        await self._link.drop()
        return FAILURE_PAUSE_SECONDS * random.uniform(0.5, 1.0)

    async def fire_due(self) -> float:
        """One round over all schedules that are due. Returns seconds until the next round."""
        now = after_at = after_id = None
        count, is_quiet = DUE_BATCH, True
        rows: Rows = []
        while count == DUE_BATCH and not self._stopping.is_set():
            rows = await self._link.rows(self._sql.schedule_due(now=now, after_at=after_at, after_id=after_id, limit=DUE_BATCH))
            schedules = [DueSchedule(row[0], *row[2:]) for row in rows if row[2] is not None]
            now, count = rows[0][0], len(schedules)
            if schedules:
                after_at, after_id = schedules[-1].next_run_at, schedules[-1].id
                is_quiet = False
            random.shuffle(schedules)  # several schedulers then work at different ends
            for schedule in schedules:
                await self._attend(schedule)
        if not is_quiet:  # what was fired comes again
            rows = await self._link.rows(self._sql.schedule_due(now=now, limit=0))
        pause = self._longest_pause(is_quiet=is_quiet) * random.uniform(0.8, 1.0)
        next_seconds = rows[0][1] if rows else None
        return pause if next_seconds is None else min(pause, next_seconds + random.uniform(0.0, JITTER_SECONDS))

    def _longest_pause(self, *, is_quiet: bool) -> float:
        """Due schedules that stay behind (broken, locked, waiting for a key) come round with the poll; new ones are rare."""
        poll_seconds = self.settings.poll_interval.total_seconds()
        return max(poll_seconds, min(QUIET_SECONDS, QUIET_POLLS * poll_seconds)) if is_quiet else poll_seconds

    async def _attend(self, schedule: DueSchedule) -> None:
        """Fire one schedule. What is wrong with it is said once, and does not keep the others waiting."""
        try:
            await self._fire(schedule)
        except (ConfigurationError, OverflowError, psycopg.Error) as error:
            if is_lost(error):
                raise
            self._complain(schedule.id, f"schedule {schedule.name!r} of app {schedule.app!r} cannot be fired, trying on", error)
        else:
            self._complaints.pop(schedule.id, None)

    async def _fire(self, schedule: DueSchedule) -> None:
        due = schedule.due()
        skip_ats = schedule.skipped(due)
        rows = await self._link.rows(
            self._sql.schedule_fire(
                id=schedule.id,
                seen=schedule.next_run_at,
                max_runs=schedule.max_runs,
                end_at=schedule.end_at,
                next_run_at=due.next_run_at,
                ended_reason=None if due.next_run_at is not None else schedule.ended_reason(due),
                fire_ats=list(due.fire),
                task_ids=[new_id() for _ in due.fire],
                headers=[json.dumps({"schedule": schedule.name, "slot": slot_at.isoformat()}) for slot_at in due.fire],
                skip_ats=skip_ats,
                unrecorded_count=due.skipped_count - len(skip_ats),
                lock_timeout=f"{LOCK_TIMEOUT // timedelta(milliseconds=1)}ms",
                channel=self._sql.schema,
            )
        )
        for slot_at, task_id, reason, _told in rows:
            self._tell(Fired(schedule.app, schedule.name, schedule.type, slot_at, task_id, reason))
        if rows and schedule.ends_with(due, fired_count=sum(row[1] is not None for row in rows)):
            logger.info("schedule %s of app %s has fired for the last time", schedule.name, schedule.app)

    def _tell(self, fired: Fired) -> None:
        if self._observer is not None:
            try:
                self._observer(fired)
            except Exception:
                logger.exception("the observer failed for %s", fired)

    def _complain(self, about: uuid.UUID | None, what: str, error: Exception) -> None:
        """Log what is wrong, once for as long as it stays the same."""
        line = _line(error)
        if self._complaints.get(about) != line:
            if len(self._complaints) >= COMPLAINTS_MAX:
                self._complaints.clear()
            self._complaints[about] = line
            logger.warning("%s: %s", what, line)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
