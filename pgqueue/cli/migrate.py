"""`pgqueue migrate`: bring a database to the schema of this version."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from pgqueue.cli.opening import settings_of
from pgqueue.cli.output import Dsn, Json, Schema, console, emit, say

if TYPE_CHECKING:
    from pgqueue.migrations import Migration


def migrate(dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Create pgqueue's schema, or bring it up to this version.

    Safe while runners run, and from several processes at once. It waits up to two minutes for others' locks, and says whose.

    Example: [bold]pgqueue migrate --dsn postgresql://app@localhost/shop[/bold]
    """
    from pgqueue import migrations
    from pgqueue.database import normalise, shown
    from pgqueue.server import find_server

    settings = settings_of(dsn, schema)
    if settings.database_url:
        address, server = normalise(settings.database_url), None
    else:
        server = find_server(None, settings, say=say)  # which migrates the embedded one by itself
        address = server.dsn
    try:
        done = migrations.migrate(address, schema=settings.db_schema, on_wait=say)
    finally:
        if server is not None:
            server.close()
    if json:
        emit({"schema": settings.db_schema, **asdict(done)})
        return
    console().print(f'{shown(address)}, schema "{settings.db_schema}": {_summary(done)}', markup=False, soft_wrap=True)


def _summary(done: Migration) -> str:
    if not done.steps:
        return f"revision {done.after}, nothing to do"
    return f"{done.before or 'empty'} → {done.after}, {done.steps} revision{'s' * (done.steps > 1)} applied"
