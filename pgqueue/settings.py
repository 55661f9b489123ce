"""Settings: what a flag, a variable or a file may say, in this order of precedence.

Flags (arguments of `load`), then `PGQUEUE_*` variables, then `.env`, then `[tool.pgqueue]` of pyproject.toml in the working
directory.
`DATABASE_URL` names the database; `PGQUEUE_DATABASE_URL` wins over it where a program must tell the two apart.
"""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pgqueue.durations import parse_duration
from pgqueue.errors import ConfigurationError
from pgqueue.sizes import parse_size


def _words(value: object) -> object:
    """Split "a, b" at the commas; lists pass through."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _duration(value: object) -> object:
    try:
        return parse_duration(value)  # type: ignore[arg-type]  # it refuses whatever it does not know
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def _size(value: object) -> object:
    try:
        return None if value is None else parse_size(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


SCHEMA_BYTES_MAX = 63
DURATION_MAX = timedelta(days=36_500)
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Size = Annotated[int | None, BeforeValidator(_size)]
Words = Annotated[list[str], NoDecode, BeforeValidator(_words)]


class Settings(BaseSettings):
    """One immutable value, made once at a program's start. Durations are written `30s`, `500ms`, `5m`."""

    model_config = SettingsConfigDict(
        env_prefix="PGQUEUE_",
        env_file=".env",
        pyproject_toml_table_header=("tool", "pgqueue"),
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    database_url: str | None = Field(default=None, validation_alias=AliasChoices("PGQUEUE_DATABASE_URL", "DATABASE_URL"))
    db_schema: str = Field(default="pgqueue", validation_alias=AliasChoices("PGQUEUE_SCHEMA", "schema"), min_length=1)
    data_directory: Path = Path(".pgqueue")
    """Where the embedded PostgreSQL keeps its data."""
    app: str = Field(default="", max_length=200)
    """Who owns the schedules declared in code; empty means the project's name, else "app"."""
    actor: str = Field(default="", max_length=200)
    """Who is written down in the audit; empty means user@host."""
    tasks: Words = []
    """Modules to import before a runner or scheduler starts."""

    concurrency: int = Field(default=10, ge=1, le=10_000)
    """Slots per process."""
    processes: int = Field(default=1, ge=1, le=1_000)
    """Child processes of one runner program."""
    max_tasks_per_process: int | None = Field(default=None, ge=1)
    """A child is replaced after about so many tasks."""
    max_memory: Size = None
    """A child that takes up more bytes of memory is replaced."""
    kill_grace: Duration = timedelta(seconds=5)
    """A child is killed so long after it should have ended: what outstays its timeout, or a stop."""
    max_crashes: int = Field(default=3, ge=1, le=1_000)
    """A task that crashed its process so many times while it ran alone is dead."""
    claim_limit: int = Field(default=500, ge=1, le=10_000)
    """Tasks that one claim takes at most."""
    lease: Duration = timedelta(seconds=30)
    """A runner silent for this long has lost its tasks."""
    heartbeat: Duration = timedelta(seconds=5)
    patience: Duration = timedelta(milliseconds=50)
    """How long a row lock may stand for a claim; a task that runs longer is leased then. Zero: every task is leased at once."""
    poll_interval: Duration = timedelta(seconds=1)
    """The longest sleep of an idle runner between two looks at the queue."""
    listen: bool = True
    """Whether a runner asks to be told of tasks; off behind a pooler in transaction mode, where only the polls find them."""
    shutdown_timeout: Duration = timedelta(seconds=30)
    statement_deadline: Duration = timedelta(seconds=20)
    """A statement unanswered for this long counts as lost, and its connection is given up."""
    connect_timeout: Duration = timedelta(seconds=60)
    """How long a program waits at its start for a server that is not there."""
    undecodable_delay: Duration = timedelta(minutes=1)
    """A payload that does not validate waits this long for a runner that knows it; the second time it is dead."""
    task_log_lines: int = Field(default=1_000, ge=0, le=100_000)
    """Lines of its own log that an attempt may store; more are dropped, and counted."""
    task_log_characters: int = Field(default=4_000, ge=1, le=100_000)
    """Characters that one such line may have; a longer one is cut."""
    hook_timeout: Duration = timedelta(seconds=5)
    """A hook of a task that has not ended after this long is left behind."""
    unknown_type_delay: Duration = timedelta(minutes=1)
    """A ready task of a type that no live runner knows is blocked after this long."""

    max_payload_bytes: int = Field(default=1024 * 1024, ge=1024, le=16 * 1024 * 1024)
    history_retention: Duration = timedelta(days=7)
    dead_retention: Duration = timedelta(days=30)
    idempotency_retention: Duration = timedelta(hours=24)
    audit_retention: Duration = timedelta(days=90)
    """How long the audit is kept. Zero: nothing is written down."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, PyprojectTomlConfigSettingsSource(settings_cls)

    @field_validator("db_schema")
    @classmethod
    def _check_schema(cls, name: str) -> str:
        if len(name.encode("utf-8", "surrogatepass")) > SCHEMA_BYTES_MAX:
            raise ValueError(f"PostgreSQL cuts names to {SCHEMA_BYTES_MAX} bytes, and this one is longer")
        if not name.isprintable() or name.startswith("pg_"):
            raise ValueError("a schema's name holds no control characters and does not begin with pg_, which PostgreSQL keeps")
        return name

    @field_validator("actor")
    @classmethod
    def _check_actor(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("the name of an actor holds no control characters")
        return name

    @field_validator("lease", "heartbeat", "poll_interval", "statement_deadline", "idempotency_retention", "hook_timeout")
    @classmethod
    def _check_positive(cls, duration: timedelta) -> timedelta:
        if not timedelta(0) < duration <= DURATION_MAX:
            raise ValueError(f"it lies above zero and within {DURATION_MAX.days} days")
        return duration

    @field_validator(
        "patience",
        "history_retention",
        "dead_retention",
        "audit_retention",
        "shutdown_timeout",
        "connect_timeout",
        "undecodable_delay",
        "unknown_type_delay",
        "kill_grace",
    )
    @classmethod
    def _check_bounded(cls, duration: timedelta) -> timedelta:
        if duration > DURATION_MAX:
            raise ValueError(f"it lies within {DURATION_MAX.days} days")
        return duration

    def model_post_init(self, context: Any) -> None:
        if self.heartbeat * 3 > self.lease:
            raise ConfigurationError(
                f"heartbeat {self.heartbeat} is too long for a lease of {self.lease}: a runner must beat at least three "
                "times within its lease. Lower PGQUEUE_HEARTBEAT or raise PGQUEUE_LEASE."
            )

        if self.patience * 3 > self.lease:
            raise ConfigurationError(
                f"patience {self.patience} is too long for a lease of {self.lease}: a lane's transaction must end within a third "
                "of it. Lower PGQUEUE_PATIENCE or raise PGQUEUE_LEASE."
            )

    def application(self) -> str:
        """The owner of schedules declared in code: the setting, else the project's name in pyproject.toml, else "app"."""
        return self.app or _project_name() or "app"


def _project_name() -> str:
    """The name in ./pyproject.toml, or "" where there is none."""
    try:
        with open("pyproject.toml", "rb") as file:
            return str(tomllib.load(file).get("project", {}).get("name", ""))[:200]
    except (OSError, tomllib.TOMLDecodeError):
        return ""


def load(**flags: Any) -> Settings:
    """Settings with these flags on top; a flag of None counts as not given. Raises ConfigurationError, in one line."""
    if unknown := flags.keys() - Settings.model_fields.keys() - {"schema"}:
        raise ConfigurationError(f"settings: there is none called {min(unknown)!r}")
    try:
        _check_project_table()
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ConfigurationError("settings: " + "; ".join(lines)) from error
    except (SettingsError, OSError, ValueError) as error:  # an unreadable .env, a pyproject.toml that is no TOML
        raise ConfigurationError(f"settings: {error}") from error


def _check_project_table() -> None:
    """A misspelt name in [tool.pgqueue] would have no effect. Raises ConfigurationError."""
    try:
        with open("pyproject.toml", "rb") as file:
            table = tomllib.load(file).get("tool", {}).get("pgqueue", {})
    except FileNotFoundError:
        return
    known = Settings.model_fields.keys() | {"schema"}
    if unknown := table.keys() - known if isinstance(table, dict) else {"tool.pgqueue"}:
        raise ConfigurationError(
            f"pyproject.toml: [tool.pgqueue] has no setting {min(unknown)!r}; there are {', '.join(sorted(known))}"
        )
