"""A proxy between runners and server, for outages: it can cut every connection and refuse new ones, and the server never knows.

Stopping the server would do as well for the runners, but it would also take the benchmark's own connections, and start from a
recovery whose length is the disk's.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

CHUNK_BYTES = 65_536
SOCKET = ".s.PGSQL.5432"


class Proxy:
    """Listens where a server would, in a directory of its own, and passes everything on. Runs in a thread."""

    def __init__(self, dsn: str) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="pgqueue-proxy-")
        parts = urlsplit(dsn)
        self._server = str(Path(parse_qs(parts.query)["host"][0], SOCKET))
        self.dsn = urlunsplit(parts._replace(query=f"host={quote(self._home.name, safe='')}&port=5432"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._refusing = False

    def __enter__(self) -> Self:
        self._thread.start()
        path = Path(self._home.name, SOCKET)
        asyncio.run_coroutine_threadsafe(asyncio.start_unix_server(self._serve, path), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._home.cleanup()

    def refuse(self) -> None:
        """Cut every connection, and each new one at once."""
        self._refusing = True
        self._loop.call_soon_threadsafe(self._cut)

    def accept(self) -> None:
        """Let new connections through again."""
        self._refusing = False

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_unix_connection(self._server)
        self._writers |= {writer, server_writer}
        for source, target in ((reader, server_writer), (server_reader, writer)):
            pump = asyncio.ensure_future(self._pump(source, target))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Pass on until one side ends; then the other does too."""
        try:
            while received := await source.read(CHUNK_BYTES):
                target.write(received)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.transport.abort()
            self._writers.discard(target)
