"""The documentation is true: its Python runs, its commands parse, its tables and diagrams say what the code says.

What the pages agree with this file on:

- A block of Python whose first line is a comment with a file name, `# tasks.py`, is appended to that file and imported.
- The other blocks of a page run in order, in one namespace, in one process per page; `await` may stand at their top level.
- `<!-- a runner is at work -->` before a block: a runner runs beside it, as the text around it says.
- `<!-- not executed: why -->` before a block: it is not.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

import pgqueue
from pgqueue import doors, runner, states
from pgqueue.client import Queue
from pgqueue.definition import define
from pgqueue.durations import format_duration
from pgqueue.records import AttemptRecord, AuditRecord, LockRecord, TaskRecord
from pgqueue.requests import EnqueueOptions
from pgqueue.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
FILE_NAME = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its first line of text."""

    page: Path
    line: int
    language: str
    note: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    source = page.read_text("utf-8")
    found = []
    for match in BLOCK.finditer(source):
        if match["language"] in languages:
            line = source.count("\n", 0, match.start("text")) + 1
            found.append(Block(page, line, match["language"], match["note"] or "", match["text"]))
    return found


def page_id(page: Path) -> str:
    return page.name


# ── Python ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_id)
def test_the_python_of_a_page_runs(page, migrated_database, tmp_path):
    script = [
        {
            "line": block.line,
            "text": block.text,
            "file": found[1] if (found := FILE_NAME.match(block.text)) else None,
            "runner": block.note == "a runner is at work",
        }
        for block in blocks(page, "python")
        if not block.note.startswith("not executed: ")
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, page.name],
        input=json.dumps(script),
        cwd=tmp_path,
        env={**environment, "DATABASE_URL": migrated_database},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


class Page:
    """The other side, in a process of its own: runs the blocks of a page one after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module = types.ModuleType("page")
        self._loop = asyncio.new_event_loop()
        sys.modules["page"] = self._module
        sys.path.insert(0, os.getcwd())

    def run(self, line: int, text: str, file: str | None, runner: bool) -> None:
        with runner_at_work() if runner else nullcontext():
            if file is None:
                self._execute(line, text)
            else:
                self._import(Path(file), text)

    def _execute(self, line: int, text: str) -> None:
        # Line breaks in front, so that a traceback names the line of the page.
        code = compile("\n" * (line - 1) + text, self._name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        result = types.FunctionType(code, self._module.__dict__)()
        if inspect.iscoroutine(result):
            self._loop.run_until_complete(result)

    def _import(self, path: Path, text: str) -> None:
        known = sys.modules.get(path.stem)
        path.write_text((path.read_text("utf-8") if path.exists() else "") + text, "utf-8")
        importlib.invalidate_caches()
        module = importlib.import_module(path.stem) if known is None else importlib.reload(known)
        self._module.__dict__.update({name: value for name, value in vars(module).items() if not name.startswith("_")})


@contextmanager
def runner_at_work() -> Iterator[None]:
    """A runner in a thread, for all types that are known by now."""
    ready, stop = threading.Event(), threading.Event()

    async def work() -> None:
        async with pgqueue.Runner(name="beside the page"):
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(work()), daemon=True)
    thread.start()
    try:
        assert ready.wait(10), "the runner beside the page did not start"
        yield
    finally:
        stop.set()
        thread.join(10)


def test_few_blocks_are_left_out_and_none_without_a_reason():
    left_out = [block for page in PAGES for block in blocks(page, "python") if block.note.startswith("not executed")]
    assert all(re.fullmatch(r"not executed: .{10,}", block.note) for block in left_out)
    assert len(left_out) <= 3


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of pgqueue's programs, with where it stands."""
    for page in PAGES:
        for block in blocks(page, "sh", "console"):
            text = block.text.replace("\\\n", " ")
            for offset, line in enumerate(text.splitlines()):
                for words in simple_commands(line):
                    if pgqueue_words := program_words(words):
                        yield f"{page.name}:{block.line + offset}", pgqueue_words


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words between `&&`, `|` and `;`, without comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            yield words
            words = []
        else:
            words.append(word)


def program_words(words: list[str]) -> list[str]:
    """`["runner", "--drain"]` of `python -m pgqueue.runner --drain` and of `pgqueue runner --drain`; else nothing."""
    if words[:2] == ["python", "-m"] and len(words) > 2 and words[2].partition(".")[0] == "pgqueue":
        verb = words[2].partition(".")[2]
        return [*([verb] if verb else []), *words[3:]]
    return words[1:] if words[:1] == ["pgqueue"] else []


@cache
def command_tree() -> Any:
    from pgqueue.cli.main import app

    return typer.main.get_command(app)


@pytest.mark.parametrize(("where", "words"), [pytest.param(*found, id=found[0]) for found in commands()])
def test_a_command_of_the_docs_parses(where, words):
    if words[0] in ("runner", "scheduler"):
        door = runner.parser("pgqueue runner") if words[0] == "runner" else doors.parser("pgqueue scheduler", "")
        door.parse_args(words[1:])
        return
    command, path = command_tree(), []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        path.append(words[0])
        assert words[0] in command.commands, f"there is no `pgqueue {' '.join(path)}`"
        command = command.commands[words.pop(0)]
    if words and words[0] in ("--help", "--version"):
        return
    context = command.make_context(path[-1] if path else "pgqueue", list(words))
    for word in context.args:
        if word.startswith("--") and word != "--":
            name = word[2:].partition("=")[0].replace("-", "_")
            assert name in fields_of_the_docs(), f"{word} is no option of `pgqueue {' '.join(path)}` and no field of a task"


@cache
def fields_of_the_docs() -> frozenset[str]:
    """What the tasks of the pages and of the examples have as fields."""
    texts = [block.text for page in PAGES for block in blocks(page, "python")]
    texts += [path.read_text("utf-8") for path in (ROOT / "examples").glob("*.py")]
    return frozenset(re.findall(r"^    (\w+): ", "\n".join(texts), re.MULTILINE))


def test_every_flag_of_the_runner_and_the_scheduler_is_in_their_table():
    page = (ROOT / "docs" / "running.md").read_text("utf-8")
    flags = {flag for action in runner.parser("x")._actions for flag in action.option_strings if flag.startswith("--")}
    assert set(re.findall(r"^\| `(--[\w-]+)", page, re.MULTILINE)) == flags - {"--help"}
    shared = {flag for action in doors.parser("x", "")._actions for flag in action.option_strings if flag.startswith("--")}
    sentence = re.search(r"^It takes (.*?), as\s+the\s+runner", page, re.MULTILINE | re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"`(--[\w-]+)`", sentence[1])) == shared - {"--help"}


def test_every_verb_and_each_of_its_options_is_in_the_page_of_the_command_line():
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for path, command in verbs(command_tree(), []):
        heading = "runner and scheduler" if path[0] in ("runner", "scheduler") else " ".join(path)
        assert f"## {heading}\n" in page
        for option in (name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)):
            if option.startswith("--") and option != "--help":
                assert re.search(rf"{option}\b", page), f"{' '.join(path)} {option}"


def verbs(command: Any, path: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from verbs(child, [*path, name])
    if not hasattr(command, "commands"):
        yield path, command


# ── tables, diagrams, shapes ────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_of_settings_is_that_of_the_code():
    page = (ROOT / "docs" / "running.md").read_text("utf-8")
    table = page.partition("| setting | variable | default | means |\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `?(.*?)`? \|", table, re.MULTILINE)
    assert rows == [(name, variable(name), default(name)) for name in Settings.model_fields]


def variable(name: str) -> str:
    alias = Settings.model_fields[name].validation_alias
    names = [choice for choice in getattr(alias, "choices", [f"PGQUEUE_{name}"]) if isinstance(choice, str)]
    return "DATABASE_URL" if name == "database_url" else names[0].upper()


def default(name: str) -> str:
    value = Settings.model_fields[name].get_default(call_default_factory=True)
    if value is None or value == []:
        return "none"
    return format_duration(value) if isinstance(value, timedelta) else str(value) or "empty"


@pytest.mark.parametrize("path", ["docs/schema.md", "ARCHITECTURE.md"])
def test_the_state_diagram_is_that_of_the_code(path):
    drawn = [block.text.strip() for block in blocks(ROOT / path, "mermaid")]
    assert drawn == [states.diagram()]


def test_every_table_of_the_schema_is_named():
    page = (ROOT / "docs" / "schema.md").read_text("utf-8")
    script = (ROOT / "alembic" / "versions" / "0001_schema.sql").read_text("utf-8")
    for table in re.findall(r"CREATE TABLE \{schema\}\.(\w+) \(", script):
        assert f"`{table}`" in page, table


def test_every_column_of_a_task_is_explained():
    page = (ROOT / "docs" / "schema.md").read_text("utf-8").partition("## The table `task`")[2].partition("\n## ")[0]
    script = (ROOT / "alembic" / "versions" / "0001_schema.sql").read_text("utf-8")
    table = script.partition("CREATE TABLE {schema}.task (")[2].partition("CONSTRAINT")[0]
    for column in re.findall(r"^    (\w+) ", table, re.MULTILINE):
        assert f"`{column}`" in page, column


def test_the_json_shapes_are_those_of_the_code():
    shapes = [json.loads(block.text) for block in blocks(ROOT / "docs" / "cli.md", "json")]
    records = [shape["tasks"][0] for shape in shapes if "cursor" in shape and "tasks" in shape]
    assert [list(record) for record in records] == [list(TaskRecord.__slots__)]
    assert list(AttemptRecord.__slots__) in [list(shape) for shape in shapes]
    locks, lines = ([shape[name][0] for shape in shapes if name in shape] for name in ("locks", "records"))
    assert [list(lock) for lock in locks] == [list(LockRecord.__slots__)]
    assert [list(line) for line in lines] == [list(AuditRecord.__slots__)]
    assert [name for name in pgqueue.Schedule.__slots__ if name != "fingerprint"] in [list(shape) for shape in shapes]
    assert list(pgqueue.SlotRecord.__slots__) in [list(shape) for shape in shapes]


def test_every_public_name_is_in_the_docs():
    text = "\n".join(page.read_text("utf-8") for page in DOCS)
    missing = [name for name in pgqueue.__all__ if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", text)]
    assert missing == []


def test_every_error_is_in_the_table_of_errors():
    page = (ROOT / "docs" / "index.md").read_text("utf-8").partition("## Errors")[2]
    kinds = [kind for name in pgqueue.__all__ if isinstance(kind := getattr(pgqueue, name), type)]
    assert [kind for kind in kinds if issubclass(kind, pgqueue.PgQueueError) and f"`{kind.__name__}`" not in page] == []


def test_every_option_of_a_task_type_is_in_its_table_with_its_default():
    page = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    table = page.partition("| option | default | means |\n")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()))
    assert set(named) == keywords(define)
    for name in ("queue", "priority", "missed", "unique", "history"):
        value = inspect.signature(define).parameters[name].default
        shown = json.dumps(value) if isinstance(value, str) else str(value)
        assert f"| `{name}` | `{shown}` |" in table


def test_every_option_of_an_enqueue_is_in_its_table():
    page = (ROOT / "docs" / "enqueueing.md").read_text("utf-8")
    table = page.partition("| option | means |\n")[2].partition("\n\n")[0]
    known = set(EnqueueOptions.__annotations__) | keywords(Queue.enqueue)
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == known


def test_every_option_of_a_retry_is_in_its_table():
    page = (ROOT / "docs" / "tasks.md").read_text("utf-8").partition("## Retries")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) == keywords(pgqueue.Retry)


def keywords(function: Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def test_every_method_of_the_clients_is_in_the_docs():
    text = "\n".join(page.read_text("utf-8") for page in DOCS)
    methods = [name for name, _ in inspect.getmembers(Queue, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in methods if not re.search(rf"\b{name}\b", text)] == []


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", [*PAGES, ROOT / "ARCHITECTURE.md"], ids=page_id)
def test_the_links_of_a_page_lead_somewhere(page):
    source = BLOCK.sub("", page.read_text("utf-8"))
    for target in LINK.findall(source):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


@cache
def anchors(page: Path) -> frozenset[str]:
    """The ids that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def test_the_front_page_and_the_map_name_every_page():
    for front, prefix in ((ROOT / "README.md", "docs/"), (ROOT / "docs" / "index.md", "")):
        targets = {target.partition("#")[0] for target in LINK.findall(front.read_text("utf-8"))}
        assert {f"{prefix}{page.name}" for page in DOCS if page.name != "index.md"} <= targets


if __name__ == "__main__":
    executed = Page(sys.argv[1])
    for one in json.load(sys.stdin):
        executed.run(**one)
