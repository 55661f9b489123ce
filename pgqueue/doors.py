"""What the doors share: flags, settings from them, logging, and errors that end in one line and an exit code.

    0    done, or stopped as asked
    2    usage, configuration, a database that is out of reach, or a schema that does not fit: one line on stderr
    130  Ctrl-C before there was anything to stop

argparse and late imports, so that a door opens fast. Nothing here holds state.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pgqueue.errors import ConfigurationError, PgQueueError

if TYPE_CHECKING:
    from datetime import timedelta

    from pgqueue.settings import Settings

EXIT_OK = 0
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130

# Flags that are called differently than the setting they set.
_SETTING_OF = {"dsn": "database_url", "schema": "db_schema"}
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that runner and scheduler have in common. What is not given is None, and left to the settings."""
    result = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [--tasks MODULE] [flags]    (--help lists them)",
        description=description,
        epilog="Flags win over PGQUEUE_* variables, .env and [tool.pgqueue] in pyproject.toml. Durations: 500ms, 30s, 5m.",
        allow_abbrev=False,  # a flag that comes later must not change what a shortened one means
    )
    add = result.add_argument
    add("--dsn", metavar="URL", help="the database; default DATABASE_URL, else the embedded PostgreSQL")
    add("--schema", metavar="NAME", help="the schema of pgqueue's tables (default pgqueue)")
    add(
        "--tasks",
        metavar="MODULE[,MODULE]",
        action="append",
        help="modules that define tasks; repeatable (default the package `tasks`)",
    )
    add("--name", help="what this process is called in logs and lists (default host-pid)")
    add("--lease", type=duration, metavar="TIME", help="a process silent for this long has lost its tasks (30s)")
    add("--heartbeat", type=duration, metavar="TIME", help="between two signs of life; at most a third of the lease (5s)")
    add("--poll-interval", type=duration, metavar="TIME", help="the longest pause between two looks at the database (1s)")
    add("--log-level", choices=("debug", "info", "warning", "error"), help="(info)")
    add("--log-format", choices=("text", "json"), help="(text)")
    return result


def duration(text: str) -> timedelta:
    """`30s` as argparse wants its types to fail."""
    from pgqueue.durations import parse_duration

    try:
        return parse_duration(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def size(text: str) -> int:
    """`512MB` as argparse wants its types to fail."""
    from pgqueue.sizes import parse_size

    try:
        return parse_size(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def load_settings(arguments: argparse.Namespace) -> Settings:
    """The settings with the flags on top: those whose name is a setting's, whatever parser they come from."""
    from pgqueue.settings import Settings, load

    flags: dict[str, Any] = {_SETTING_OF.get(name, name): value for name, value in vars(arguments).items()}
    if flags.get("tasks") is not None:
        flags["tasks"] = split_names(flags["tasks"])
    return load(**{name: value for name, value in flags.items() if name in Settings.model_fields})


def split_names(values: list[str]) -> list[str]:
    """`["a,b", "c"]` as `["a", "b", "c"]`."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def setup_logging(settings: Settings) -> None:
    """Log to stderr, at the level and in the format of the settings."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    route_logs(handler, settings.log_level)


def route_logs(handler: logging.Handler, level: str) -> None:
    """Send everything that is logged to this handler, and to no other."""
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # The pool logs every connection it loses; who needed the connection says what that means.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """`2026-07-17 12:03:21.123Z info pgqueue.runner: what happened key=value`, and a traceback indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        instant = _instant(record).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        pairs = "".join(f" {name}={_value(value)}" for name, value in _extra(record).items())
        line = f"{instant}Z {record.levelname.lower()} {record.name}: {one_line(record.getMessage())}{pairs}"
        below = "".join(f"\n    {_escaped(part)}" for part in _traceback(self, record).splitlines())
        return line + below


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, logger, message, what `extra=` gave, and traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": _instant(record).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if traceback := _traceback(self, record):
            entry["traceback"] = traceback
        return json.dumps(entry, default=str)  # ASCII: every control character is escaped


def _instant(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}


def _value(value: Any) -> str:
    text = one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else record.exc_text or ""


def leave_on_termination() -> None:
    """Let SIGTERM end the program with 0 until its event loop takes the signal over: PID 1 of a container would ignore it."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(EXIT_OK)

    signal.signal(signal.SIGTERM, leave)


def guarded(function: Callable[[], int | None]) -> int:
    """Call a program and return its exit code; what it refuses to do becomes one line on stderr, without a traceback."""
    try:
        return function() or EXIT_OK
    except PgQueueError as error:
        return refuse(str(error))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if _is_out_of_reach(error):
            return refuse(f"PostgreSQL cannot be reached: {first_line(error)}")
        raise


def refuse(message: str) -> int:
    """Say why on stderr, in one line, and return the exit code for that."""
    sys.stderr.write(f"pgqueue: {one_line(message)}\n")
    sys.stderr.flush()
    return EXIT_REFUSED


def one_line(text: str) -> str:
    """Text without line breaks and control characters: it may come from a payload, and must not forge a line or move a cursor."""
    return _escaped(" ".join(text.split()))


def first_line(error: BaseException) -> str:
    """What libpq says, without its hints."""
    return str(error).strip().partition("\n")[0]


def _escaped(text: str) -> str:
    r"""Text with its control characters as `\x1b`."""
    return "".join(part if part.isprintable() else part.encode("unicode_escape").decode("ascii") for part in text)


def _is_out_of_reach(error: Exception) -> bool:
    from psycopg import OperationalError

    return isinstance(error, OperationalError)
