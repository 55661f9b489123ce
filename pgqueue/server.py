"""Which PostgreSQL: the one that DATABASE_URL names, else the embedded one, migrated unasked."""

from __future__ import annotations

import sys
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


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"pgqueue: {line}\n")
    sys.stderr.flush()
