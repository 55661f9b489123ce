"""The tables as SQLAlchemy models, to query them beside your own:

    session.scalars(select(TaskRow).where(TaskRow.type == "SendEmail").order_by(TaskRow.maturity_at, TaskRow.id))

A schema of another name: `engine.execution_options(schema_translate_map={"pgqueue": "other"})`. They are for reading: writing
goes through the client, which knows the rules. The revisions make the database; Alembic compares columns, defaults and
indexes with these models. Check constraints stand in the revisions only: a reader has no use for them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar

from sqlalchemy import REAL, BigInteger, DefaultClause, Enum, Index, MetaData, SmallInteger, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, INTERVAL, JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgqueue.states import Status

SCHEMA = "pgqueue"
PARTITION = re.compile(r"(history|attempt|task_log)_(default|\d{8})")

Small = Annotated[int, mapped_column(SmallInteger)]
Big = Annotated[int, mapped_column(BigInteger)]

metadata = MetaData(schema=SCHEMA)
STATUS = Enum(Status, name="status", metadata=metadata, values_callable=lambda states: [state.value for state in states])
NOW = text("clock_timestamp()")
NEW_ID = text(f"{SCHEMA}.new_id()")
LOG_ID = text(f"nextval('{SCHEMA}.task_log_id_seq'::regclass)")


class Base(DeclarativeBase):
    """Every model of pgqueue; its metadata holds nothing else."""

    metadata = metadata
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        float: REAL,
        bytes: BYTEA,
        datetime: TIMESTAMP(timezone=True),
        timedelta: INTERVAL,
        uuid.UUID: UUID(as_uuid=True),
        list[str]: ARRAY(Text),
        dict[str, Any]: JSONB,
    }


class TaskRow(Base):
    """Unfinished business."""

    __tablename__ = "task"
    __table_args__ = (
        Index("task_ready", "queue", text("((- priority))"), "maturity_at", "id", postgresql_where=text("status = 'ready'")),
        Index("task_scheduled", "queue", "maturity_at", "id", postgresql_where=text("status = 'scheduled'")),
        Index("task_blocked", "queue", "type", "id", postgresql_where=text("status = 'blocked'")),
        Index("task_running", "runner_id", "id", postgresql_where=text("status = 'running'")),
        Index("task_unique", "queue", "unique_key", unique=True, postgresql_where=text("unique_key IS NOT NULL")),
        Index("task_expires", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        Index("task_tags", "tags", postgresql_using="gin", postgresql_where=text("tags IS NOT NULL")),
    )

    queue: Mapped[str] = mapped_column(primary_key=True, server_default="default")
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=NEW_ID)
    type: Mapped[str]
    status: Mapped[Status] = mapped_column(STATUS, server_default="scheduled")
    priority: Mapped[Small] = mapped_column(server_default=text("100"))
    payload: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    maturity_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    crashes: Mapped[Small] = mapped_column(server_default=text("0"))
    runner_id: Mapped[uuid.UUID | None]
    claim_id: Mapped[uuid.UUID | None]
    claimed_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    blocked_on: Mapped[str | None]
    unique_key: Mapped[bytes | None]
    tags: Mapped[list[str] | None]
    headers: Mapped[dict[str, Any] | None]
    options: Mapped[dict[str, Any] | None]
    lineage: Mapped[dict[str, Any] | None]


class DeadTaskRow(Base):
    """Tasks that used up their tries."""

    __tablename__ = "dead_task"
    __table_args__ = (
        Index("dead_task_id", "id"),
        Index("dead_task_finished", "finished_at", "id"),
    )

    queue: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    priority: Mapped[Small]
    payload: Mapped[dict[str, Any]]
    maturity_at: Mapped[datetime]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime]
    attempt: Mapped[int]
    crashes: Mapped[Small]
    runner_id: Mapped[uuid.UUID | None]
    claim_id: Mapped[uuid.UUID | None]
    unique_key: Mapped[bytes | None]
    tags: Mapped[list[str] | None]
    headers: Mapped[dict[str, Any] | None]
    options: Mapped[dict[str, Any] | None]
    lineage: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]


class HistoryRow(Base):
    """Finished tasks, a partition a day."""

    __tablename__ = "history"
    __table_args__ = (
        Index("history_id", "id"),
        Index("history_tags", "tags", postgresql_using="gin", postgresql_where=text("tags IS NOT NULL")),
        {"postgresql_partition_by": "RANGE (finished_at)"},
    )
    __mapper_args__ = {"primary_key": ["queue", "id", "finished_at"]}  # noqa: RUF012  # as SQLAlchemy declares it

    queue: Mapped[str]
    id: Mapped[uuid.UUID]
    type: Mapped[str]
    status: Mapped[Status] = mapped_column(STATUS)
    priority: Mapped[Small]
    payload: Mapped[dict[str, Any]]
    maturity_at: Mapped[datetime]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime]
    attempt: Mapped[int]
    crashes: Mapped[Small]
    runner_id: Mapped[uuid.UUID | None]
    claim_id: Mapped[uuid.UUID | None]
    tags: Mapped[list[str] | None]
    headers: Mapped[dict[str, Any] | None]
    lineage: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    reason: Mapped[str | None]


class AttemptRow(Base):
    """Attempts that failed, a partition a day."""

    __tablename__ = "attempt"
    __table_args__ = (
        Index("attempt_task", "task_id", "attempt"),
        {"postgresql_partition_by": "RANGE (finished_at)"},
    )
    __mapper_args__ = {"primary_key": ["task_id", "attempt", "finished_at"]}  # noqa: RUF012  # as SQLAlchemy declares it

    queue: Mapped[str]
    task_id: Mapped[uuid.UUID]
    type: Mapped[str]
    attempt: Mapped[int]
    claim_id: Mapped[uuid.UUID | None]
    runner_id: Mapped[uuid.UUID | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime]
    error_type: Mapped[str]
    error: Mapped[str]
    traceback: Mapped[str | None]


class TaskLogRow(Base):
    """Lines that tasks logged about themselves, a partition a day."""

    __tablename__ = "task_log"
    __table_args__ = (
        Index("task_log_task", "task_id", "id"),
        {"postgresql_partition_by": "RANGE (logged_at)"},
    )
    __mapper_args__ = {"primary_key": ["id"]}  # noqa: RUF012  # as SQLAlchemy declares it

    id: Mapped[Big] = mapped_column(server_default=LOG_ID)
    queue: Mapped[str]
    task_id: Mapped[uuid.UUID]
    attempt: Mapped[int]
    logged_at: Mapped[datetime] = mapped_column(server_default=NOW)
    level: Mapped[Small]
    message: Mapped[str]
    progress: Mapped[float | None]


class IdempotencyRow(Base):
    """Idempotency keys, which outlive their tasks."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("idempotency_expires", "expires_at"),)

    queue: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[bytes] = mapped_column(primary_key=True)
    task_id: Mapped[uuid.UUID]
    task_queue: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]


class ScheduleRow(Base):
    """Recurring definitions."""

    __tablename__ = "schedule"
    __table_args__ = (
        UniqueConstraint("app", "name", name="schedule_name_key"),
        Index("schedule_due", "next_run_at", postgresql_where=text("(enabled AND (paused_at IS NULL))")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=NEW_ID)
    app: Mapped[str]
    name: Mapped[str]
    source: Mapped[str] = mapped_column(server_default="code")
    type: Mapped[str]
    queue: Mapped[str] = mapped_column(server_default="default")
    frequency: Mapped[timedelta | None]
    cron: Mapped[str | None]
    rrule: Mapped[str | None]
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    missed: Mapped[str] = mapped_column(server_default="last")
    payload: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    options: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    fingerprint: Mapped[str]
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    paused_at: Mapped[datetime | None]
    start_at: Mapped[datetime | None]
    end_at: Mapped[datetime | None]
    max_runs: Mapped[Big | None]
    next_run_at: Mapped[datetime | None]
    last_run_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    ended_reason: Mapped[str | None]
    fired_count: Mapped[Big] = mapped_column(server_default=text("0"))
    skipped_count: Mapped[Big] = mapped_column(server_default=text("0"))
    triggered_count: Mapped[Big] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ScheduleSlotRow(Base):
    """What became of each due instant."""

    __tablename__ = "schedule_slot"
    __table_args__ = (Index("schedule_slot_decided", "decided_at"),)

    schedule_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    slot_at: Mapped[datetime] = mapped_column(primary_key=True)
    is_trigger: Mapped[bool] = mapped_column(primary_key=True, server_default=text("false"))
    outcome: Mapped[str]
    reason: Mapped[str | None]
    task_id: Mapped[uuid.UUID | None]
    decided_at: Mapped[datetime] = mapped_column(server_default=NOW)


class RunnerRow(Base):
    """Runner and scheduler processes."""

    __tablename__ = "runner"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(server_default="runner")
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    app: Mapped[str | None]
    queues: Mapped[list[str] | None]
    types: Mapped[list[str] | None]
    concurrency: Mapped[int] = mapped_column(server_default=text("0"))
    running_count: Mapped[int] = mapped_column(server_default=text("0"))
    wanted: Mapped[str] = mapped_column(server_default="running")
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=NOW)


class QueueRow(Base):
    """Settings of a queue."""

    __tablename__ = "queue"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[datetime | None]
    max_concurrency: Mapped[int | None]
    rate_limit: Mapped[str | None]
    aging: Mapped[timedelta | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class TaskTypeRow(Base):
    """Task types seen, and what operators changed about them."""

    __tablename__ = "task_type"
    name: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    payload_schema: Mapped[dict[str, Any]]
    options: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    overrides: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    disabled_at: Mapped[datetime | None]
    first_seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class LimitSlotRow(Base):
    """Slots of concurrency limits that are taken."""

    __tablename__ = "limit_slot"
    __table_args__ = (Index("limit_slot_task", "task_id"),)

    queue: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[bytes] = mapped_column(primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[uuid.UUID]
    taken_at: Mapped[datetime] = mapped_column(server_default=NOW)


class RateGrantRow(Base):
    """Starts granted by rate limits."""

    __tablename__ = "rate_grant"

    queue: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[bytes] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=NEW_ID)
    start_count: Mapped[int]
    granted_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]
    counts_until: Mapped[datetime]


class NamedLockRow(Base):
    """Locks by name."""

    __tablename__ = "named_lock"
    __table_args__ = (Index("named_lock_expires", "expires_at"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str | None]
    claim_id: Mapped[uuid.UUID | None]
    token: Mapped[Big] = mapped_column(server_default=text("0"))
    acquired_at: Mapped[datetime | None]
    expires_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AuditRow(Base):
    """Who did what."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_at", "at", "id"), Index("audit_object", "kind", "name", "at", "id"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=NEW_ID)
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    actor: Mapped[str]
    door: Mapped[str] = mapped_column(server_default="api")
    action: Mapped[str]
    kind: Mapped[str]
    name: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(server_default="{}")


# ── for Alembic ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def metadata_in(schema: str) -> MetaData:
    """The same tables in a schema of another name, defaults and all."""
    if schema == SCHEMA:
        return metadata
    copy = MetaData(schema=schema)
    quoted = '"' + schema.replace('"', '""') + '"'
    named = quoted.replace("'", "''").replace(":", r"\:")
    moved = {
        NEW_ID: text(f"{quoted}.new_id()".replace(":", r"\:")),
        LOG_ID: text(f"nextval('{named}.task_log_id_seq'::regclass)"),
    }
    for table in metadata.sorted_tables:
        for column in table.to_metadata(copy, schema=schema).columns:
            if isinstance(default := column.server_default, DefaultClause) and default.arg in moved:
                column.server_default = DefaultClause(moved[default.arg])
    return copy


def include_name(schema: str) -> Callable[[str | None, str, Any], bool]:
    """Which objects Alembic compares: those of our schema, but for partitions, and an index over a function of ours."""

    def include(name: str | None, kind: str, _parents: Any) -> bool:
        if kind == "schema":
            return name == schema
        if kind == "index":
            return name != "task_type_folded"
        return kind != "table" or PARTITION.fullmatch(name or "") is None

    return include
