"""What an import brings along: a program that only defines tasks waits for no driver, and a runner for no migrations."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

TASKS = "import pgqueue; pgqueue.Task, pgqueue.task, pgqueue.Retry, pgqueue.Status"
RUNNER = "import pgqueue.runner, pgqueue.client, pgqueue.discovery, pgqueue.worker"


@pytest.mark.parametrize(
    ("program", "left_out"),
    [
        (TASKS, {"psycopg", "sqlalchemy", "alembic", "typer", "rich", "croniter", "dateutil", "pydantic_settings"}),
        (RUNNER, {"sqlalchemy", "alembic", "typer", "rich", "croniter", "dateutil"}),
    ],
    ids=["tasks", "runner"],
)
def test_a_program_imports_what_it_needs_and_no_more(program: str, left_out: set[str]) -> None:
    listing = f"{program}\nimport json, sys\nprint(json.dumps([name for name in sys.modules if '.' not in name]))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout))
    assert {"pgqueue", "pydantic"} <= loaded
    assert loaded & left_out == set()
