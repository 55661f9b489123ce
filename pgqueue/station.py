"""What a supervisor has to do with the database: it finds it, beats for the children, watches all runners, and looks after the
tasks of children that died. Two connections at most: one for the heart, and one for the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pgqueue.casualties import Casualties, Fallen
from pgqueue.database import connection_parameters
from pgqueue.heart import Heart, Pulse
from pgqueue.link import Link
from pgqueue.readiness import check_schema
from pgqueue.server import Server, find_server
from pgqueue.settings import Settings
from pgqueue.statements import statements

logger = logging.getLogger("pgqueue.supervisor")


class Station:
    """Closed until `open` has come back; then it beats until `close`."""

    def __init__(self, settings: Settings, *, pulses: Callable[[], Sequence[Pulse]], on_peers: Callable[[int], None]) -> None:
        self._settings = settings
        self._pulses = pulses
        self._on_peers = on_peers
        self._server: Server | None = None
        self._heart: Heart | None = None
        self._casualties: Casualties | None = None
        self._beating: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._beating is not None

    @property
    def dsn(self) -> str:
        """Where the database is, once it is open."""
        return "" if self._server is None else self._server.dsn

    async def open(self) -> None:
        """Find the database, wait for it (and say so), check the schema, begin to beat.

        Raises ConfigurationError, SchemaError, DatabaseUnavailable.
        """
        settings, sql = self._settings, statements(self._settings.db_schema)
        self._server = await asyncio.to_thread(find_server, None, settings)
        link = Link(
            connection_parameters(self.dsn, lease=settings.lease),
            name="supervisor",
            deadline_seconds=settings.statement_deadline.total_seconds(),
        )
        try:
            await link.wait_until_up(timeout_seconds=settings.connect_timeout.total_seconds(), say=logger.warning)
            await check_schema(link, sql)
        except BaseException:
            await link.drop()
            raise
        self._casualties = Casualties(sql, link, max_crashes=settings.max_crashes, lease_seconds=settings.lease.total_seconds())
        self._heart = Heart(
            self.dsn,
            sql,
            lease=settings.lease,
            heartbeat=settings.heartbeat,
            deadline=settings.statement_deadline,
            max_crashes=settings.max_crashes,
            on_peers=self._on_peers,
        )
        self._beating = asyncio.create_task(self._heart.run(self._stop, self._pulses), name="pgqueue heart")

    def hurry(self) -> None:
        """Beat now: there is a new child."""
        if self._heart is not None:
            self._heart.hurry()

    async def look_after(self, fallen: Fallen) -> None:
        """Give a dead child's tasks back."""
        if self._casualties is not None:
            await self._casualties.look_after(fallen)

    async def has_suspects(self, *, queues: Sequence[str] | None, types: Sequence[str]) -> bool:
        """Whether tasks wait to run alone."""
        return self._casualties is not None and await self._casualties.has_suspects(queues=queues, types=types)

    async def close(self) -> None:
        """Beat no more, and let go of connections and of an embedded server."""
        self._stop.set()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._heart is not None:
            await self._heart.farewell()
        if self._casualties is not None:
            await self._casualties.close()
        if self._server is not None:
            await asyncio.to_thread(self._server.close)
