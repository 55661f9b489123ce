"""The audit: who did what through which door, kept with the change or not at all, and read again."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from pgqueue import AsyncQueue, AuditPage, AuditRecord, ConfigurationError, Queue, Settings, Task, operations, task
from pgqueue.actors import Actor, Door, default_name
from pgqueue.audit import audited
from pgqueue.cli.main import app
from pgqueue.database import connection_parameters, run
from pgqueue.link import Link
from pgqueue.maintenance import Sweeps
from pgqueue.settings import load
from pgqueue.statements import statements

Row = psycopg.Connection[Any]
SQL = statements("pgqueue")
ANN = Actor("ann", Door.DASHBOARD)
MINUTE = timedelta(minutes=1)
NOWHERE = Queue("postgresql://127.0.0.1:1/nowhere")


@pytest.fixture(autouse=True)
def note() -> type[Task]:
    @task(name="note")
    class Note(Task):
        async def run(self) -> None: ...

    return Note


def brief(page: AuditPage) -> list[tuple[Any, ...]]:
    return [(one.actor, one.door, one.action, one.object, one.details) for one in page]


async def test_what_is_done_by_hand_is_written_down_with_who_and_through_which_door(
    queue: Queue, async_queue: AsyncQueue, note: type[Task]
) -> None:
    for ann in (queue.acting("ann", door="dashboard"), async_queue.acting("ann").acting(door=Door.DASHBOARD)):

        async def told(answer: Any) -> Any:
            return await answer if hasattr(answer, "__await__") else answer

        handle, held = await told(ann.enqueue(note())), ann.lock("l", ttl=MINUTE)
        token = await told(held.acquire())
        assert await told(ann.cancel(handle, "wrong")) is True
        assert await told(ann.cancel(handle, "wrong")) is False
        await told(ann.configure("mail", aging=MINUTE))
        await told(ann.locks.release("l"))
        assert await told(ann.locks.release("l")) is None
        assert await told(ann.cancel_all(reason="none there")) == 0
        page = await told(ann.audit())
        assert brief(page) == [
            ("ann", "dashboard", "release", "lock:l", {"holder": default_name(), "token": token}),
            ("ann", "dashboard", "configure", "queue:mail", {"aging": 60.0}),
            ("ann", "dashboard", "cancel", f"task:{handle.id}", {"queue": "default", "reason": "wrong", "status": "cancelled"}),
        ]
        assert page.records[0].at > page.records[1].at
        with queue._connection() as connection:
            connection.execute("DELETE FROM pgqueue.audit")
    queue.enqueue(note()).cancel()
    assert [(one.actor, one.door) for one in queue.audit()] == [(default_name(), "api")]
    assert "@" in default_name()


def test_many_that_are_cancelled_in_batches_make_one_line_with_their_number(
    queue: Queue, note: type[Task], connection: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "CANCEL_BATCH", 2)
    for name in ("a", "b"):
        queue.enqueue_many([note() for _ in range(5)], queue=name, tags=["t"])
    connection.execute(
        "UPDATE pgqueue.task SET status = 'running', runner_id = id, claim_id = id, claimed_at = now()"
        " WHERE ctid IN (SELECT ctid FROM pgqueue.task LIMIT 3)"
    )
    assert queue.cancel_all(type="Note", tags=["t"], reason="stop") == 10
    details = {"statuses": ["blocked", "ready", "running", "scheduled"], "queue": None, "type": "note", "tags": ["t"]}
    assert [(one.action, one.object, one.details) for one in queue.audit()] == [
        ("cancel_all", "task:*", {**details, "reason": "stop", "count": 10})
    ]


def test_change_and_line_are_kept_together_or_not_at_all(queue: Queue, note: type[Task], connection: Row) -> None:
    handle = queue.enqueue(note())
    connection.execute("ALTER TABLE pgqueue.audit ADD CONSTRAINT never CHECK (actor <> 'ann')")
    ann = queue.acting("ann")
    for change in (lambda: ann.cancel(handle), ann.cancel_all, lambda: ann.configure("mail", aging=MINUTE)):
        with pytest.raises(psycopg.errors.CheckViolation):
            change()
    assert handle.status() == "ready"
    assert [one.name for one in queue.queues()] == ["default"]
    assert queue.audit().records == ()

    def both(queue_name: str) -> None:
        run(connection, operations.configure(SQL, queue_name, {"aging": MINUTE}, by=Actor("bob", Door.API)))

    with connection.transaction():  # in a caller's transaction it stands and falls with that
        both("kept")
        with pytest.raises(ZeroDivisionError), connection.transaction():
            both("rolled back")
            1 / 0  # noqa: B018
    assert [one.object for one in queue.audit()] == ["queue:kept"]
    assert [one.name for one in queue.queues()] == ["default", "kept"]


def test_an_operation_of_several_statements_joins_by_one_line(connection: Row) -> None:
    def several() -> Any:
        yield SQL.lock_name(name="x")
        return (yield SQL.lock_take(name="x", holder="h", claim_id=uuid.uuid4(), ttl=MINUTE))

    now = datetime.now(UTC)
    details = {"at": now, "for": MINUTE, "id": uuid.UUID(int=1)}
    rows = run(connection, audited(SQL, ANN, "take", "lock:x:y", several(), details))
    assert rows[0][0] == 1
    assert run(connection, audited(SQL, None, "take", "lock:x", several())) != []
    assert run(connection, audited(SQL, ANN, "take", "lock:x", SQL.lock_name(name="x"))) == []
    assert connection.execute("SELECT kind, name, details FROM pgqueue.audit").fetchall() == [
        ("lock", "x:y", {"at": now.isoformat(), "for": 60.0, "id": str(uuid.UUID(int=1))})
    ]
    for wrong in ("mail", "house:mail", "queue:"):
        with pytest.raises(ConfigurationError):
            run(connection, audited(SQL, ANN, "take", wrong, several()))


def test_pages_and_filters_find_what_they_name(queue: Queue, connection: Row) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        ("ann", "cli", "pause", "queue", "mail"),
        ("ann", "api", "resume", "queue", "mail"),
        ("bob", "api", "pause", "queue", "other"),
        ("bob", "dashboard", "cancel", "task", "mail"),
    ]
    for minutes, row in enumerate(rows * 2):
        connection.execute(
            "INSERT INTO pgqueue.audit (at, actor, door, action, kind, name) VALUES (%s, %s, %s, %s, %s, %s)",
            (start + (minutes // 2) * MINUTE, *row),  # two of each instant
        )

    def found(**options: Any) -> list[tuple[str, str]]:
        return sorted((one.actor, one.object) for one in queue.audit(**options))

    assert len(found()) == 8
    assert found(object="queue:mail") == [("ann", "queue:mail")] * 4
    assert found(object="queue", actor="bob") == [("bob", "queue:other")] * 2
    assert found(door="api", action="pause") == [("bob", "queue:other")] * 2
    assert len(found(since=start + 3 * MINUTE)) == 2
    assert found(object="lock") == found(actor="a") == []
    seen: list[AuditRecord] = []
    cursor: str | None = None
    while True:
        page = queue.audit(limit=3, cursor=cursor)
        seen += page
        cursor = page.cursor
        if cursor is None:
            break
    assert len({one.id for one in seen}) == len(seen) == 8
    assert [one.at for one in seen] == sorted((one.at for one in seen), reverse=True)
    assert seen[0].as_json() == {
        "id": str(seen[0].id), "at": "2026-01-01T00:03:00+00:00", "actor": "bob", "door": seen[0].door,
        "action": seen[0].action, "object": seen[0].object, "details": {},
    }  # fmt: skip
    assert queue.audit(cursor=str(uuid.uuid4())).records == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"object": "house"},
            "object takes a kind, or kind:name, of the kinds task, queue, schedule, type, runner, lock; not 'house'",
        ),
        ({"object": "queue:"}, "object=queue: takes a name"),
        ({"object": 5}, "object takes a text"),
        ({"actor": ""}, "actor takes a name"),
        ({"door": "window"}, "a door is one of cli, api, dashboard, not 'window'"),
        ({"action": "\0"}, "control character"),
        ({"since": datetime(2026, 1, 1)}, "naive"),  # noqa: DTZ001
        ({"since": MINUTE}, "since takes an aware datetime"),
        ({"limit": 0}, "limit takes 1 to 1000"),
        ({"cursor": "x"}, "cursor takes that of the page before"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_before_anything_is_sent(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        NOWHERE.audit(**options)


def test_the_actor_is_the_client_s_then_the_setting_then_user_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_ACTOR", "deploy bot")
    queue = Queue("postgresql://x", settings=load())
    assert queue._actor == Actor("deploy bot", Door.API)
    assert queue.acting("ann")._actor == Actor("ann", Door.API)
    assert queue.acting(door="cli").acting("ann")._actor == Actor("ann", Door.CLI)
    assert queue._actor == Actor("deploy bot", Door.API)
    monkeypatch.setenv("PGQUEUE_ACTOR", "")
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("no such user")))
    monkeypatch.setattr("platform.node", lambda: "h\0st")
    default_name.cache_clear()
    actor = Queue("postgresql://x", settings=load())._actor
    default_name.cache_clear()
    assert actor is not None
    assert actor.name.endswith("@hst")
    assert Queue("postgresql://x", settings=load(audit_retention="0s"))._actor is None
    for wrong in ("a\nb", "x" * 201):
        with pytest.raises(ConfigurationError, match="actor"):
            load(actor=wrong)
    for refused in ({"actor": ""}, {"door": "window"}):
        with pytest.raises(ConfigurationError):
            queue.acting(**refused)


async def test_lines_go_when_they_are_older_than_their_retention_and_none_comes_without_one(
    migrated_database: str, connection: Row, settings: Settings
) -> None:
    connection.execute(
        "INSERT INTO pgqueue.audit (at, actor, action, kind, name)"
        " SELECT now() - make_interval(days => days), 'a', 'x', 'queue', 'q' FROM unnest(ARRAY[1, 4, 6]) AS days, generate_series(1, 600)"
    )
    link = Link(connection_parameters(migrated_database), name="test", deadline_seconds=10)
    await Sweeps(SQL, link, settings.model_copy(update={"audit_retention": timedelta(days=3)})).sweep()
    await link.drop()
    assert connection.execute("SELECT count(*), min(at) > now() - interval '2 d' FROM pgqueue.audit").fetchone() == (600, True)
    silent = settings.model_copy(update={"audit_retention": timedelta(0)})
    async with AsyncQueue(migrated_database, settings=silent) as queue:
        await queue.configure("mail", aging=MINUTE)
        assert (await queue.audit(object="queue:mail")).records == ()


# ── the command line ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_shows_the_audit_and_takes_locks_away(queue: Queue, migrated_database: str) -> None:
    """In this process: a start of Python for each verb says nothing more."""

    def shell(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(
            app, list(words), env={"DATABASE_URL": migrated_database, "PGQUEUE_ACTOR": "carl", "NO_COLOR": "1"}
        )
        assert done.exit_code == code, done
        return done.stdout

    assert json.loads(shell("locks", "list", "--json")) == {"locks": [], "cursor": None}
    assert shell("locks", "list") == "no lock is held\n"
    assert shell("audit") == "nothing was written down\n"
    lock = queue.lock("[red]nightly", ttl=MINUTE, holder="ann")
    token = lock.acquire()
    [shown] = json.loads(shell("locks", "list", "--json"))["locks"]
    assert (shown["name"], shown["holder"], shown["token"]) == ("[red]nightly", "ann", token)
    assert "[red]nightly" in shell("locks", "list")
    assert shell("locks", "release", "[red]nightly") == f"[red]nightly: taken away from ann, token {token}\n"
    assert json.loads(shell("locks", "release", "[red]nightly", "--json", code=1)) is None
    queue.lock("[red]nightly", ttl=MINUTE, holder="ann").acquire()
    assert json.loads(shell("locks", "release", "[red]nightly", "--json"))["holder"] == "ann"
    shell("queues", "set", "mail", "--aging", "1m")

    first, *_ = json.loads(shell("audit", "--json"))["records"]
    assert (first["actor"], first["door"], first["action"], first["object"], first["details"]) == (
        "carl", "cli", "configure", "queue:mail", {"aging": 60.0},
    )  # fmt: skip
    page = json.loads(shell("audit", "--object", "lock", "--since", "1h", "--limit", "1", "--json"))
    [line] = page["records"]
    assert line["object"] == "lock:[red]nightly"
    rest = json.loads(shell("audit", "--object", "lock", "--cursor", page["cursor"], "--json"))
    assert (len(rest["records"]), rest["cursor"]) == (1, None)
    assert json.loads(shell("audit", "--actor", "ann", "--door", "cli", "--action", "cancel", "--json"))["records"] == []
    assert json.loads(shell("audit", "--since", "2999-01-01T00:00+00:00", "--json"))["records"] == []
    assert "lock:[red]nightly" in shell("audit")
    for words in (
        ["--since", "soon"],
        ["--since", "2030-01-31T09:30"],
        ["--since", "900000d"],
        ["--object", "x"],
        ["--limit", "0"],
    ):
        assert isinstance(
            CliRunner().invoke(app, ["audit", *words], env={"DATABASE_URL": migrated_database}).exception, ConfigurationError
        )
