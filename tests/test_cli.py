"""The command line and the doors, as processes on a real database: what they print, what they refuse, with which exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import Field

from pgqueue import Queue, Task, task
from pgqueue.cli import fields
from pgqueue.errors import ConfigurationError
from pgqueue.registry import registry
from pgqueue.runner import queue_weights
from tests.conftest import wait_until

TASKS = """
import time
from pathlib import Path
from pgqueue import Ignore, Task, task

@task
class HelloWorld(Task[str]):
    name: str
    url: str = ""
    copies: int = 1
    tags_: list[str] = []

    def run(self) -> str:
        print("printed on the way")
        return f"Hello {self.name} {self.url} {self.copies}"

@task
class Breaks(Task):
    async def run(self) -> None:
        raise ValueError("broken\\nin two lines")

@task
class Lingers(Task[str]):
    mark: str
    seconds: float = 1.0

    def run(self) -> str:
        Path(self.mark).write_text("begun")
        time.sleep(self.seconds)
        Path(self.mark).write_text("ended")
        return "done"
"""
NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"
DEADLINE_SECONDS = 20


class Shell:
    """A directory with a module of tasks, and `pgqueue` run in it."""

    def __init__(self, directory: Path, dsn: str | None) -> None:
        self.directory = directory
        (directory / "shop_tasks.py").write_text(TASKS)
        names = ("DATABASE_URL", "PGQUEUE_DATABASE_URL")
        self.environment = {name: value for name, value in os.environ.items() if name not in names}
        self.environment |= {"PGQUEUE_CONNECT_TIMEOUT": "300ms", "PGQUEUE_TASKS": "shop_tasks", "NO_COLOR": "1"}
        if dsn is not None:
            self.environment["DATABASE_URL"] = dsn

    def __call__(self, *words: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `pgqueue` with these words, and expect this exit code."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.directory,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr or "task" in words, done.stderr
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        """The one document that these words print."""
        return json.loads(self(*words, "--json", code=code).stdout)

    def refusal(self, *words: str, **variables: str) -> str:
        """The one line with which these words are refused."""
        done = self(*words, code=2, **variables)
        lines = done.stderr.strip().splitlines()
        assert done.stdout == ""
        assert lines[-1].startswith("pgqueue: "), lines
        return lines[-1]

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "pgqueue", *words]


@pytest.fixture
def shell(tmp_path: Path, migrated_database: str) -> Shell:
    return Shell(tmp_path, migrated_database)


@pytest.fixture
def shell_without_database(tmp_path: Path) -> Shell:
    return Shell(tmp_path, NOBODY)


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_goes_from_enqueue_through_a_draining_runner_to_its_sheet(shell: Shell) -> None:
    enqueued = shell.json(
        "task", "enqueue", "hello_world", "--name", "Tom Jones", "--url=a?b=1", "--priority", "150", "--tag", "a"
    )
    assert enqueued["type"] == "hello-world"
    assert enqueued["created"] is True

    shell("runner", "--drain", "--queue", "default=3", "--concurrency", "2")

    shown = shell.json("task", "show", enqueued["id"])
    assert (shown["status"], shown["priority"], shown["tags"]) == ("succeeded", 150, ["a"])
    assert shown["result"] == "Hello Tom Jones a?b=1 1"
    sheet = shell("task", "show", enqueued["id"]).stdout
    assert "Tom Jones" in sheet
    assert shell("task", "list", "--type", "HelloWorld").stdout.count(enqueued["id"]) == 1


def test_a_failed_attempt_is_shown_with_its_traceback(shell: Shell, connection: psycopg.Connection[Any]) -> None:
    with Queue(shell.environment["DATABASE_URL"]) as queue:
        connection.execute("INSERT INTO pgqueue.task (type, payload, status) VALUES ('breaks', '{}', 'ready')")
        log = shell("runner", "--drain").stderr
        (dead,) = queue.list(status="dead")
    assert "attempt 1 failed, it is dead: ValueError: broken in two lines" in log
    sheet = shell("task", "show", str(dead.id)).stdout
    assert "attempt 1 failed" in sheet
    assert "shop_tasks.py" in sheet
    listed = shell("task", "list", "--status", "dead").stdout
    assert "ValueError: broken" in listed
    assert str(dead.id) in listed


def test_listing_goes_on_at_the_cursor(shell: Shell, connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO pgqueue.task (type) SELECT 'x' FROM generate_series(1, 3)")
    page = shell.json("task", "list", "--limit", "2")
    rest = shell.json("task", "list", "--limit", "2", "--cursor", page["cursor"])
    assert len({one["id"] for one in page["tasks"] + rest["tasks"]}) == 3
    assert rest["cursor"] is None


def test_cancelling_says_how_each_ended(shell: Shell, connection: psycopg.Connection[Any]) -> None:
    rows = connection.execute("INSERT INTO pgqueue.task (type) VALUES ('x'), ('y') RETURNING id::text").fetchall()
    unknown = "01980000-0000-7000-8000-000000000000"
    done = shell.json("task", "cancel", rows[0][0], unknown, "--reason", "why not", code=1)
    assert [(one["cancelled"], one["outcome"]) for one in done["tasks"]] == [(True, "cancelled"), (False, "not found")]
    assert shell.json("task", "show", rows[0][0])["reason"] == "why not"

    assert "--yes" in shell.refusal("task", "cancel", "--all", "--type", "y")
    assert shell.json("task", "cancel", "--all", "--type", "y", "--yes") == {"cancelled": 1}
    assert "--status takes" in shell.refusal("task", "cancel", "--all", "--status", "dead", "--yes")


def test_running_a_task_here_needs_no_database(shell_without_database: Shell) -> None:
    shell = shell_without_database
    done = shell("task", "run", "HelloWorld", "--name", "Tom Jones", "--url=a?b=1", "--json")
    assert json.loads(done.stdout) == {"type": "hello-world", "status": "succeeded", "result": "Hello Tom Jones a?b=1 1"}
    assert "printed on the way" in done.stderr

    failed = shell("task", "run", "breaks", "--json", code=1)
    assert json.loads(failed.stdout)["error"]["type"] == "ValueError"
    assert "shop_tasks.py" in failed.stderr
    assert "eager.py" not in failed.stderr


def test_wrong_fields_are_refused_with_the_list_of_fields(shell_without_database: Shell) -> None:
    shell = shell_without_database
    missing = shell("task", "enqueue", "HelloWorld", code=2).stderr
    assert "name: Field required" in missing
    assert re.search(r"--copies +int +default 1", missing)
    assert "there is no field --nam" in shell("task", "run", "HelloWorld", "--nam", "x", code=2).stderr
    assert "no task type is called 'nope'" in shell.refusal("task", "run", "nope")


# ── looking and migrating ───────────────────────────────────────────────────────────────────────────────────────────


def test_stats_count_queues_runners_and_schedules(shell: Shell, connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO pgqueue.task (type, queue, status) VALUES ('x', 'mail', 'ready'), ('x', 'mail', 'scheduled')")
    connection.execute(
        "INSERT INTO pgqueue.runner (id, name, host, pid, version) VALUES (gen_random_uuid(), '[red]r', 'h', 1, '1')"
    )
    found = shell.json("stats")
    assert found["totals"] == {"scheduled": 1, "blocked": 0, "ready": 1, "running": 0, "dead": 0}
    assert found["queues"][0]["oldest_ready_seconds"] >= 0
    assert found["runners"][0]["is_alive"] is True
    screen = shell("stats").stdout
    assert "[red]r" in screen
    assert "mail" in screen


def test_queues_are_listed_and_set(shell: Shell, connection: psycopg.Connection[Any]) -> None:
    assert shell.json("queues", "list") == {"queues": []}
    connection.execute("INSERT INTO pgqueue.task (type, queue) VALUES ('x', '[red]q')")
    mail = {"name": "mail", "aging": 90.0, "paused_at": None, "has_tasks": False}
    assert shell.json("queues", "set", "mail", "--aging", "1m30s") == mail
    assert shell.json("queues", "list")["queues"] == [
        {"name": "[red]q", "aging": None, "paused_at": None, "has_tasks": True},
        mail,
    ]
    screen = shell("queues", "list").stdout
    assert "[red]q" in screen
    assert "1m30s" in screen
    assert shell("queues", "set", "mail", "--aging", "none").stdout == "mail: aging none\n"


def test_a_setting_of_a_queue_that_is_none_is_refused(shell: Shell) -> None:
    assert "nothing to set" in shell.refusal("queues", "set", "mail")
    assert "above zero" in shell.refusal("queues", "set", "mail", "--aging", "0s")
    assert "at most 3,650 days" in shell.refusal("queues", "set", "mail", "--aging", "4000d")
    assert "'soon' is not a duration" in shell.refusal("queues", "set", "mail", "--aging", "soon")
    assert "queue takes a name" in shell.refusal("queues", "set", "", "--aging", "1m")
    assert shell.json("queues", "list") == {"queues": []}


def test_migrating_says_what_it_did(tmp_path: Path, empty_database: str) -> None:
    shell = Shell(tmp_path, empty_database)
    for words in (("stats",), ("runner",), ("scheduler",)):
        assert "run `pgqueue migrate`" in shell.refusal(*words)
    assert "run `pgqueue migrate`" in shell("up", code=2).stderr
    done = shell.json("migrate")
    assert done["before"] is None
    assert done["steps"] >= 1
    assert "nothing to do" in shell("migrate").stdout


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_database_that_is_none_or_out_of_reach_is_one_line(shell_without_database: Shell) -> None:
    shell = shell_without_database
    assert "cannot be reached" in shell.refusal("stats")
    assert "cannot be reached" in shell.refusal("task", "list", "--json")
    assert "cannot be reached" in shell.refusal("runner")
    assert "waiting for PostgreSQL" in shell("scheduler", code=2).stderr
    assert "postgresql://" in shell.refusal("runner", DATABASE_URL="mysql://root@localhost/shop")


def test_modules_of_tasks_that_cannot_be_used_are_named(shell_without_database: Shell) -> None:
    shell = shell_without_database
    (shell.directory / "broken_tasks.py").write_text("1 / 0\n")
    assert "'broken_tasks' could not be imported: ZeroDivisionError" in shell.refusal("runner", "--tasks", "broken_tasks")
    assert "there is no module 'absent'" in shell.refusal("scheduler", "--tasks", "shop_tasks,absent")
    assert "--tasks" in shell.refusal("runner", PGQUEUE_TASKS="")


def test_flags_are_checked_before_anything_starts(shell_without_database: Shell) -> None:
    shell = shell_without_database
    assert "unrecognized arguments: --workers" in shell("runner", "--workers", "2", code=2).stderr
    assert "'1X' is not an amount of memory" in shell("runner", "--max-memory", "1X", code=2).stderr
    assert "processes:" in shell.refusal("runner", "--processes", "0")
    assert "'1x' is not a duration" in shell("runner", "--lease", "1x", code=2).stderr
    assert "is given twice" in shell.refusal("runner", "--queue", "a", "--queue", "a=2")


def test_help_has_an_example_for_every_verb(shell_without_database: Shell) -> None:
    shell = shell_without_database
    assert "Exit codes" in shell("--help").stdout
    assert "pgqueue 0" in shell("--version").stdout
    for verb in (
        "up",
        "migrate",
        "stats",
        "queues list",
        "queues set",
        "locks list",
        "locks release",
        "audit",
        "task list",
        "task show",
        "task cancel",
        "task enqueue",
        "task run",
        *(f"task {verb}" for verb in ("update", "delete", "restore", "requeue", "mark")),
        *(f"dead {verb}" for verb in ("list", "show", "retry", "retry-all", "purge", "count")),
    ):
        assert "Example:" in _help(verb), verb
    assert "--shutdown-timeout" in shell("runner", "--help").stdout


def _help(verb: str) -> str:
    """In this process: a start of Python for each verb says nothing more."""
    from typer.testing import CliRunner

    from pgqueue.cli.main import app

    return CliRunner().invoke(app, [*verb.split(), "--help"]).output


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        (["a=3", "b"], {"a": 3, "b": 1}),
        (["a=b"], {"a=b": 1}),
        (["a=b=2"], {"a=b": 2}),
        (["a="], {"a=": 1}),
    ],
)
def test_the_weight_of_a_queue_is_a_number_after_the_last_equals_sign(given: list[str], weights: dict[str, int]) -> None:
    assert queue_weights(given) == weights


def test_a_queue_named_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        queue_weights(["a", "a=2"])


# ── fields ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fields_are_read_as_what_they_are() -> None:
    from datetime import date
    from decimal import Decimal

    @task
    class Order(Task):
        label: str
        amount: Decimal = Decimal(0)
        due: date | None = None
        count: int = 0
        urgent: bool = False
        names: list[str] = Field(default_factory=list)
        extra: dict[str, int] = Field(default_factory=dict)

        async def run(self) -> None: ...

    def build(*words: str, document: str | None = None) -> dict[str, Any]:
        return fields.build(registry.get("order"), words, document).model_dump(exclude_unset=True)

    assert build("--label", "007", "--amount", "1.10") == {"label": "007", "amount": Decimal("1.10")}
    assert build("--label=a=b", "--count", "5", "--urgent") == {"label": "a=b", "count": 5, "urgent": True}
    assert build("--label", '{"a": 1}', "--due", "2030-01-31")["due"] == date(2030, 1, 31)
    assert build("--label", "x", "--names", "one")["names"] == ["one"]
    assert build("--label", "x", "--names", "one", "--names", "two")["names"] == ["one", "two"]
    assert build("--label", "x", "--extra", '{"a": 1}')["extra"] == {"a": 1}
    assert build("--count", "2", document='{"label": "x", "count": 1}') == {"label": "x", "count": 2}
    for wrong in (["label"], ["--count", "many", "--label", "x"], ["--label", "a", "--label", "b"]):
        with pytest.raises(fields.FieldError):
            build(*wrong)


# ── starting and stopping ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lingering(shell: Shell) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program, and wait until the task that marks a file has begun in it."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, seconds: float) -> subprocess.Popen[str]:
        mark = shell.directory / "mark"
        shell("task", "enqueue", "lingers", "--mark", str(mark), "--seconds", str(seconds))
        started.append(shell.start(*words))
        wait_until(mark.exists, timeout=DEADLINE_SECONDS)
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_sigterm_lets_a_running_task_finish(shell: Shell, lingering: Callable[..., subprocess.Popen[str]]) -> None:
    runner = lingering("runner", "--log-format", "json", seconds=1.0)
    runner.send_signal(signal.SIGTERM)
    _, log = runner.communicate(timeout=DEADLINE_SECONDS)
    assert runner.returncode == 0
    assert (shell.directory / "mark").read_text() == "ended"
    assert shell.json("stats")["totals"]["running"] == 0
    assert all(json.loads(line)["level"] == "info" for line in log.splitlines())


def test_up_without_a_terminal_writes_plain_lines_and_stops_at_sigint(
    shell: Shell, lingering: Callable[..., subprocess.Popen[str]]
) -> None:
    up = lingering("up", "--concurrency", "3", seconds=0.5)
    up.send_signal(signal.SIGINT)
    lines, errors = up.communicate(timeout=DEADLINE_SECONDS)
    assert (up.returncode, errors) == (0, "")
    assert "\x1b" not in lines
    assert re.search(r"✔ lingers +\w{8} +\S+s  ok .*→ done", lines)
    assert "1 done" in lines


def test_up_on_a_terminal_tells_what_happens_until_ctrl_c(shell: Shell) -> None:
    shell("task", "enqueue", "hello-world", "--name", "Ann")
    shell("task", "enqueue", "breaks")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(shell.directory)
        os.execve(sys.executable, shell.command("up"), shell.environment | {"TERM": "xterm", "COLUMNS": "100"})
    try:
        seen = _read_until(terminal, "✔ hello-world", "✖ breaks", "pgqueue task show")
        assert "Ctrl-C" in seen
        os.write(terminal, b"\x03")
        seen += _read_until(terminal, "Stopped after")
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "1 done, 1 dead" in seen


def _read_until(terminal: int, *wanted: str) -> str:
    """What a terminal shows until all of this is there, without its colours."""
    seen, deadline = "", time.monotonic() + DEADLINE_SECONDS
    while not all(text in seen for text in wanted):
        assert time.monotonic() < deadline, (wanted, seen)
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
            seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    return seen
