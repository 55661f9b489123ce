"""`pgqueue schedules`, in this process: what each verb prints, changes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import doors
from pgqueue.cli.main import app

TASKS = """
from pgqueue import Task, task

@task
class Letter(Task):
    to: str
    copies: int = 1

    def run(self) -> None: ...
"""
Call = Callable[..., str]


@pytest.fixture
def call(tmp_path: Path, migrated_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`call("list", code=0)`: `pgqueue schedules list`; what it prints, or what it says on stderr too if it fails."""
    module = f"letters_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DATABASE_URL", migrated_database)
    monkeypatch.setenv("PGQUEUE_TASKS", module)
    monkeypatch.setenv("PGQUEUE_APP", "shop")

    def call(*words: str, code: int = 0) -> str:
        def invoke() -> int:
            with pytest.raises(SystemExit) as ended:
                app(["schedules", *words])
            return int(ended.value.code or 0)

        found = doors.guarded(invoke)
        out, err = capsys.readouterr()
        assert found == code, (words, out, err)
        return out + err if code else out

    return call


def test_a_schedule_is_made_shown_changed_paused_triggered_and_deleted(call: Call, connection: psycopg.Connection[Any]):
    def document(*words: str) -> Any:
        return json.loads(call(*words, "--json"))

    made = document(
        "create", "weekly", "Letter", "--cron", "0 7 * * MON", "--timezone", "Europe/Berlin", "--to", "ann", "--copies", "2",
        "--max-runs", "5", "--start-at", "2090-01-01T00:00+01:00", "--tag", "a", "--timeout", "5m", "--unique",
    )  # fmt: skip
    assert (made["app"], made["cron"], made["timezone"], made["max_runs"]) == ("shop", "0 7 * * MON", "Europe/Berlin", 5)
    assert (made["payload"], made["options"]["tags"], made["options"]["overrides"]) == (
        {"to": "ann", "copies": 2},
        ["a"],
        {"timeout": 300.0},
    )
    assert (made["start_at"], made["next_run_at"]) == ("2089-12-31T23:00:00+00:00", "2090-01-02T06:00:00+00:00")
    assert document("list", "--type", "letter") == {"schedules": [made], "cursor": None}
    changed = document("update", "weekly", "--rrule", "FREQ=DAILY;BYHOUR=9", "--max-runs", "none", "--start-at", "none", "--no-unique", "--payload", '{"to": "bob"}')  # fmt: skip
    assert (changed["id"], changed["rrule"], changed["max_runs"], changed["start_at"]) == (
        made["id"],
        "FREQ=DAILY;BYHOUR=9",
        None,
        None,
    )
    assert (changed["payload"], "unique_key" in changed["options"]) == ({"to": "bob", "copies": 1}, False)
    assert document("pause", "weekly")["paused_at"] is not None
    assert "paused" in call("list")
    task = document("trigger", "weekly")
    assert (task["type"], task["created"]) == ("letter", True)
    shown = document("show", "weekly")
    assert (shown["triggered_count"], [slot["task_id"] for slot in shown["slots"]]) == (1, [task["id"]])
    sheet = call("show", "weekly")
    for text in ("FREQ=DAILY;BYHOUR=9 (Europe/Berlin)", "fired: triggered", "made at run time", '"to": "bob"'):
        assert text in sheet
    assert call("resume", "weekly").startswith("weekly: FREQ=DAILY;BYHOUR=9 (Europe/Berlin), next ")
    assert len(call("trigger", "weekly").split()) == 1
    assert document("delete", "weekly") == {"name": "weekly", "deleted": True}
    assert "no schedules" in call("list")


def test_what_is_missing_exits_with_1_and_what_is_wrong_with_2(call: Call, connection: psycopg.Connection[Any]):
    assert json.loads(call("show", "weekly", "--json", code=1).partition("\n")[0]) is None
    for words in (("show",), ("pause",), ("resume",), ("trigger",), ("delete",), ("update", "--max-runs", "3")):
        assert "weekly" in call(words[0], "weekly", *words[1:], code=1)
    for words, reason in (
        (["--frequency", "1h"], "the fields of letter"),
        (["--to", "ann"], "say when a schedule is due"),
        (["--to", "ann", "--cron", "0 0 30 2 *"], "never comes"),
        (["--to", "ann", "--rrule", "FREQ=WEEKLY;INTERVAL=2"], "DTSTART"),
        (["--to", "ann", "--frequency", "1h", "--max-runs", "0"], "max_runs takes"),
        (["--to", "ann", "--frequency", "1h", "--max-runs", "few"], "--max-runs takes"),
        (["--to", "ann", "--frequency", "1h", "--end-at", "soon"], "--end-at takes an instant"),
        (["--to", "ann", "--frequency", "1h", "--end-at", "2020-01-01T00:00Z"], "is in the past"),
        (["--to", "ann", "--frequency", "soon"], "not a duration"),
    ):
        assert reason in call("create", "weekly", "Letter", *words, code=2)
    assert "nothing to change" in call("update", "weekly", code=2)
    assert "--payload is not JSON" in call("update", "weekly", "--payload", "{", code=2)
    assert "no cursor" in call("list", "--cursor", "x", code=2)
    connection.execute(
        "INSERT INTO pgqueue.schedule (app, name, type, fingerprint, frequency) VALUES ('shop', 'declared', 'letter', '', '1 day')"
    )
    assert "declared in code" in call("delete", "declared", code=2)
    assert "declared" in call("list")
