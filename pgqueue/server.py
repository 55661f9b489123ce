"""Which PostgreSQL: the one that DATABASE_URL names, else the embedded one, migrated unasked."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqueue.database import normalise, shown
from pgqueue.settings import Settings

if TYPE_CHECKING:
    from pgqueue.embedded import EmbeddedServer


@dataclass(frozen=True, slots=True)
class Server:
    """Where the database is. `notice` is one line for the screen; `close` lets go of an embedded server."""

    dsn: str
    notice: str
    embedded: EmbeddedServer | None = None

    def close(self) -> None:
        if self.embedded is not None:
            self.embedded.close()


def find_server(dsn: str | None, settings: Settings, *, say: Callable[[str], None] | None = None) -> Server:
    """The server to use: `dsn`, else the setting, else the embedded one, started or joined and migrated.

    With a DSN nothing embedded is imported. `say` gets the notice of an embedded server; None prints it to stderr.
    Raises ConfigurationError for a DSN that is none, EmbeddedError when there is neither.
    """
    dsn = dsn or settings.database_url
    if dsn:
        return Server(normalise(dsn), f"PostgreSQL {shown(dsn)}")
    from pgqueue.embedded import open_embedded
    from pgqueue.migrations import migrate

    tell = say or _to_stderr
    embedded = open_embedded(settings.data_directory, on_wait=tell)
    try:
        migrate(embedded.dsn, schema=settings.db_schema, on_wait=tell)
    except BaseException:
        embedded.close()
        raise
    tell(embedded.notice)
    return Server(embedded.dsn, embedded.notice, embedded)


class Home:
    """The server that a client and its `bound` twins use, found when first asked for. Shared between threads."""

    def __init__(self, dsn: str | None, settings: Settings) -> None:
        self._given = dsn
        self._settings = settings
        self._server: Server | None = None
        self._lock = threading.Lock()

    def dsn(self) -> str:
        """Its address; an embedded server is started or joined by asking."""
        with self._lock:
            if self._server is None:
                self._server = find_server(self._given, self._settings)
            return self._server.dsn

    def leave(self) -> None:
        """Let go of an embedded server."""
        with self._lock:
            server, self._server = self._server, None
            if server is not None:
                server.close()


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"pgqueue: {line}\n")
    sys.stderr.flush()
