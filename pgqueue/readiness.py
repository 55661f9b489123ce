"""What a program checks and makes known before it starts to work: the schema's revision, and its task types."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import psycopg

from pgqueue.definition import TaskType
from pgqueue.errors import ConfigurationError
from pgqueue.link import Link
from pgqueue.migrations import check_revision
from pgqueue.statements import Statements


async def check_schema(link: Link, sql: Statements) -> None:
    """Raises SchemaError when the schema is not there, older than this program needs, or too new for it."""
    rows = await link.insist(sql.revision(schema=sql.schema))
    found, oldest_compatible = rows[0]
    check_revision(found, oldest_compatible, schema=sql.schema)


async def register_types(link: Link, sql: Statements, task_types: Iterable[TaskType[Any]]) -> None:
    """Keep title, description, payload schema and options of each type, for dashboards and other languages.

    Raises ConfigurationError where another program knows a type under another spelling.
    """
    for task_type in task_types:
        call = sql.register_type(
            name=task_type.name,
            title=task_type.title,
            description=task_type.description,
            payload_schema=json.dumps(task_type.payload_schema()),
            options=json.dumps(task_type.described_options()),
        )
        try:
            rows = await link.insist(call)
        except psycopg.errors.UniqueViolation:  # another spelling, registered at the same moment
            rows = []
        if not rows:
            raise ConfigurationError(
                f"a task type of this database is spelt differently than {task_type.name!r}: names that differ "
                'only in case, `-` and `_` are one. Use its spelling, or another name: @task(name="...")'
            )
