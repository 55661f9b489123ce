"""Alembic's door to the schema, for `alembic` on the command line and for `pgqueue.migrations.migrate`.

On the command line DATABASE_URL names the database and PGQUEUE_SCHEMA the schema. `migrate` hands over a connection that
holds the migration lock, in a transaction which it commits itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from logging.config import fileConfig
from typing import Any

from alembic import context
from sqlalchemy import Connection

from pgqueue import migrations, models
from pgqueue.errors import ConfigurationError
from pgqueue.statements import quote_identifier

config = context.config
schema: str = config.attributes.get("schema") or os.environ.get("PGQUEUE_SCHEMA") or "pgqueue"
options: dict[str, Any] = {
    "target_metadata": models.metadata_in(schema),
    "version_table": "alembic_version",
    "version_table_schema": schema,
    "include_schemas": True,
    "include_name": models.include_name(schema),
}


def upgrade(connection: Connection, on_version_apply: Callable[..., None] | None = None) -> None:
    """Run what the command asks for, and write down the revision it led to. Does not commit."""
    migrations.create_schema(connection, schema)
    context.configure(connection=connection, on_version_apply=on_version_apply, **options)
    with context.begin_transaction():
        context.run_migrations()
    migrations.note_revision(connection, schema, context.script)


def script() -> None:
    """Print the SQL instead of running it (`--sql`)."""
    context.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, literal_binds=True, **options)
    revision = context.get_revision_argument()
    with context.begin_transaction():
        output = context.get_context().impl.static_output
        output(f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)};")
        context.run_migrations()
        output(migrations.note(context.script, str(revision) if revision else None, schema=schema) + ";")


def from_command_line() -> None:
    """Take the migration lock ourselves, and make the partitions afterwards; who is in the way is told on stderr."""
    if config.config_file_name is not None and config.file_config.has_section("loggers"):
        fileConfig(config.config_file_name, disable_existing_loggers=False)
    dsn = os.environ.get("DATABASE_URL")
    if not dsn:
        raise ConfigurationError("DATABASE_URL is not set: it names the database to migrate, as postgresql://user@host/name")
    applied: list[Any] = []

    def work(connection: Connection) -> None:
        upgrade(connection, lambda **step: applied.append(step))

    migrations.locked(dsn, work, schema=schema, on_wait=lambda message: print(message, file=sys.stderr))
    if applied:
        migrations.make_partitions(dsn, schema=schema)


if "connection" in config.attributes:
    upgrade(config.attributes["connection"], config.attributes["on_version_apply"])
elif context.is_offline_mode():
    script()
else:
    from_command_line()
