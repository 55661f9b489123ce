"""The SQL, one statement a file under sql/, as values. Loaded once per schema; `{schema}` is the only placeholder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pgqueue.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement with psycopg placeholders; `name` is its file's."""

    name: str
    text: str

    def __call__(self, **parameters: Any) -> Call:
        """The statement with its parameters, ready for `run` or `arun`. Parameters named in the text and not given are NULL."""
        return Call(self, parameters)


@dataclass(frozen=True, slots=True)
class Call:
    """A statement and its parameters: what an operation yields, and gets the rows of."""

    statement: Statement
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Copy:
    """A COPY … FROM STDIN and the text to send, in chunks of whole rows. It yields no rows."""

    statement: Statement
    chunks: Iterable[str]


class Statements:
    """All statements of one schema, as attributes: `statements.enqueue`."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._quoted = quote_identifier(schema)

    def __getattr__(self, name: str) -> Statement:
        if name.startswith("_"):
            raise AttributeError(name)
        # A % in a schema's name would read as a placeholder.
        statement = Statement(name, _read(name).replace("{schema}", self._quoted.replace("%", "%%")))
        setattr(self, name, statement)  # found without this method from now on
        return statement


@cache
def statements(schema: str) -> Statements:
    """The statements of this schema."""
    return Statements(schema)


def quote_identifier(name: str) -> str:
    """An identifier as SQL wants it quoted. PostgreSQL allows every character but NUL. Raises ConfigurationError."""
    if not name or "\0" in name:
        raise ConfigurationError(f"{name!r} is no identifier")
    return '"' + name.replace('"', '""') + '"'


@cache
def _read(name: str) -> str:
    """A file's text without its comments: they would travel with every execution."""
    text = resources.files("pgqueue").joinpath("sql", f"{name}.sql").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return "\n".join(lines).strip()
