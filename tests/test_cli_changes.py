"""`pgqueue dead` and the changes of `pgqueue task`, in this process: what they print, what they refuse, with which exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import typer

from pgqueue import Queue, Status, Task, task
from pgqueue.cli.main import main

UNKNOWN = "01980000-0000-7000-8000-000000000000"
Cli = Callable[..., Any]


class Note(Task[int]):
    name: str = "a"

    async def run(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def types() -> None:
    task(unique=True)(Note)


@pytest.fixture
def cli(migrated_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `pgqueue` with these words: the JSON that it prints, else its stdout; for a failure without a document its stderr."""
    monkeypatch.setenv("DATABASE_URL", migrated_database)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str, code: int = 0) -> Any:
        monkeypatch.setattr(sys, "argv", ["pgqueue", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code or 0) == code, (words, said)
        if "--json" in words and said.out:
            return json.loads(said.out)
        return said.out or said.err

    return run


def test_dead_tasks_are_listed_shown_counted_retried_and_purged(
    cli: Cli, queue: Queue, connection: psycopg.Connection[Any]
) -> None:
    assert cli("dead", "count", "--json") == {"count": 0, "oldest_seconds": None}
    one, two = queue.enqueue(Note(), tags=["a"]), queue.enqueue(Note(), queue="mail")
    queue.mark(one, "failed", reason="broke\nin two lines")
    queue.mark(two, "failed")
    connection.execute("UPDATE pgqueue.dead_task SET finished_at = now() - interval '3 hours' WHERE queue = 'mail'")

    listed = cli("dead", "list", "--type", "NOTE", "--json")
    assert [found["id"] for found in listed["tasks"]] == [str(two.id), str(one.id)]
    assert listed["cursor"] is None
    assert str(one.id) in cli("dead", "list", "--tag", "a", "--queue", "default", "--limit", "1")
    assert "broke in two lines" in cli("dead", "show", str(one.id))
    shown = cli("dead", "show", str(one.id), "--json")
    assert (shown["status"], shown["lineage"]["marked"]["status"], shown["attempts"]) == ("dead", "dead", [])
    assert cli("dead", "count", "--json")["oldest_seconds"] > 3 * 3600
    assert cli("dead", "count") == "2 dead tasks, the oldest for 3h\n"
    assert cli("dead", "count", "--older-than", "7d") == "0 dead tasks\n"

    assert cli("dead", "retry", str(one.id), UNKNOWN, "--json", code=1) == {
        "tasks": [{"id": str(one.id), "done": True, "outcome": "ready"}, {"id": UNKNOWN, "done": False, "outcome": "not found"}]
    }
    assert "it is ready, not dead" in cli("dead", "retry", str(one.id), code=1)
    assert "not among the dead" in cli("dead", "show", str(one.id), code=1)
    assert cli("dead", "show", UNKNOWN, "--json", code=1) is None
    taken = queue.enqueue(Note(), queue="mail")
    assert f"by the unfinished task {taken.id}" in cli("dead", "retry", str(two.id), code=1)
    assert cli("dead", "retry-all", "--yes", "--json") == {"retried": 0, "skipped": 1}
    assert "0 ready again; 1 skipped" in cli("dead", "retry-all", "--yes", "--queue", "mail")
    assert cli("dead", "purge", "--older-than", "2h", "--yes", "--json") == {"purged": 1}
    assert cli("dead", "purge", "--older-than", "0s", "--yes") == "purged 0 dead tasks\n"
    assert "no tasks match" in cli("dead", "list")


def test_what_is_done_to_many_asks_first(cli: Cli, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.mark(queue.enqueue(Note()), "failed")
    questions: list[str] = []
    bulk = (("dead", "retry-all"), ("dead", "purge", "--type", "note"), ("task", "delete", UNKNOWN, "--purge"))
    for words in bulk:
        assert "add --yes" in cli(*words, code=2)
    assert "say which" in cli("dead", "purge", "--yes", code=2)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda question, err: questions.append(question))
    for words in bulk:
        assert "nothing was" in cli(*words, code=1)
    assert questions == ["Retry 1 dead task?", "Delete for ever 1 dead task?", "Delete 1 task for ever?"]
    assert queue.dead.count() == 1


def test_a_task_is_changed_deleted_restored_marked_and_copied(cli: Cli, queue: Queue) -> None:
    handle = queue.enqueue(Note())
    id = str(handle.id)
    changed = cli("task", "update", id, "--priority", "7", "--delay", "1h", "--payload", '{"name": "b"}', "--tag", "x", "--json")
    assert (changed["priority"], changed["status"], changed["payload"], changed["tags"]) == (7, "scheduled", {"name": "b"}, ["x"])
    assert f"{id}  ready in queue mail, priority 7" in cli("task", "update", id, "--queue", "mail", "--at", "2020-01-01T00:00Z")
    assert cli("task", "delete", id, "--reason", "why") == f"{id}  deleted\n"
    assert "why" in cli("task", "show", id)
    assert cli("task", "restore", id, "--json") == {"tasks": [{"id": id, "done": True, "outcome": "restored"}]}
    assert "not deleted" in cli("task", "restore", id, code=1)
    assert "has not ended" in cli("task", "requeue", id, code=1)
    assert cli("task", "mark", id, "succeeded", "--result", "5", "--reason", "by hand") == f"{id}  marked succeeded\n"
    assert handle.result(timeout=0) == 5
    copy = cli("task", "requeue", id, "--payload", '{"name": "c"}', "--queue", "other", "--delay", "1h", "--json")
    assert (copy["type"], copy["queue"], copy["created"]) == ("note", "other", True)
    record = queue.get(copy["id"])
    assert record is not None
    assert (record.status, record.payload) == (Status.SCHEDULED, {"name": "c"})
    assert record.maturity_at - record.created_at > timedelta(minutes=50)
    sheet = cli("task", "show", id)
    assert f"copies: {copy['id']}; moved from queue default; marked by hand; deleted and restored" in sheet
    assert f"a copy of {id}" in cli("task", "show", copy["id"])
    assert cli("task", "requeue", id, "--queue", "other").strip() == copy["id"]  # its unique key is taken
    assert cli("task", "mark", copy["id"], "failed", "--json")["tasks"][0]["done"] is True
    assert cli("task", "delete", copy["id"], "--purge", "--yes") == f"{copy['id']}  purged\n"


def test_what_cannot_be_done_exits_with_1_and_what_makes_no_sense_with_2(cli: Cli, queue: Queue) -> None:
    ended = queue.enqueue(Note())
    ended.cancel()
    id = str(ended.id)
    for words, message in (
        (("task", "update", id, "--priority", "5"), "has ended (cancelled)"),
        (("task", "update", UNKNOWN, "--priority", "5"), "is not stored"),
        (("task", "delete", id), "has ended (cancelled)"),
        (("task", "mark", id, "failed"), "has ended (cancelled)"),
        (("task", "requeue", UNKNOWN), "is not stored"),
    ):
        assert message in cli(*words, code=1)
    waiting = str(queue.enqueue(Note()).id)
    for words, message in (
        (("task", "update", waiting), "nothing to change"),
        (("task", "update", waiting, "--payload", "{"), "--payload is not JSON"),
        (("task", "update", waiting, "--payload", "[]"), "--payload takes a JSON object"),
        (("task", "update", waiting, "--payload", '{"name": 5}'), "does not validate"),
        (("task", "update", waiting, "--at", "2030-01-01"), "naive"),
        (("task", "update", "x", "--priority", "5"), "is no task id"),
        (("task", "mark", waiting, "done"), 'mark takes "succeeded" or "failed"'),
        (("task", "mark", waiting, "succeeded", "--result", '"x"'), "not what Task[...] promises"),
        (("dead", "list", "--limit", "0"), "limit takes"),
        (("dead", "count", "--older-than", "x"), "is not a duration"),
        (("task", "update", waiting, "--tasks", "absent", "--priority", "5"), "there is no module 'absent'"),
    ):
        assert message in cli(*words, code=2)
