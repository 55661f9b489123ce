"""The schema: made by anybody at any time, once; and its rules, which a row put in by hand cannot break."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import migrations, models
from pgqueue.errors import DatabaseUnavailable, SchemaError
from pgqueue.migrations import Migration
from pgqueue.statements import quote_identifier
from pgqueue.states import Status

ROOT = Path(migrations.__file__).resolve().parent.parent
ODD_SCHEMAS = [
    "UPPER",
    "with space",
    'quo"te',
    "o'clock",
    "Übung-日本",
    "per%cent %s",
    "{schema}",
    "a:b::c",
    "a.b",
    "select",
    "ü" * 31,
]
DEADLINE_SECONDS = 60


@pytest.fixture
def connection(empty_database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def migrated(connection: psycopg.Connection[Any], empty_database: str) -> psycopg.Connection[Any]:
    migrations.migrate(empty_database)
    return connection


def url(conninfo: str, scheme: str = "postgresql") -> str:
    parts = conninfo_to_dict(conninfo)
    secret = f":{parts['password']}" if parts.get("password") else ""
    host, port = str(parts["host"]), parts.get("port") or 5432
    if host.startswith("/"):  # a socket's directory
        return f"{scheme}://{parts['user']}{secret}@/{parts['dbname']}?host={quote(host, safe='')}&port={port}"
    return f"{scheme}://{parts['user']}{secret}@{host}:{port}/{parts['dbname']}"


def alembic(*arguments: str, dsn: str = "", schema: str = "pgqueue") -> subprocess.CompletedProcess[str]:
    """Run Alembic's own command at top level."""
    environment = {**os.environ, "PGQUEUE_SCHEMA": schema, "DATABASE_URL": dsn}
    command = [sys.executable, "-m", "alembic.config", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )


def objects(connection: psycopg.Connection[Any], schema: str = "pgqueue") -> set[str]:
    """What a schema holds: relations, types and functions."""
    query = """
        SELECT relname FROM pg_class WHERE relnamespace = %(schema)s::text::regnamespace
        UNION ALL SELECT typname FROM pg_type WHERE typnamespace = %(schema)s::text::regnamespace AND typtype = 'e'
        UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = %(schema)s::text::regnamespace
    """
    return {name for (name,) in connection.execute(query, {"schema": quote_identifier(schema)})}


# ── migrate ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_database_is_migrated_once(empty_database: str, connection: psycopg.Connection[Any]) -> None:
    assert migrations.current(connection) is None
    assert migrations.migrate(empty_database) == Migration(None, migrations.head(), int(migrations.head()))
    assert migrations.migrate(empty_database) == Migration(migrations.head(), migrations.head(), 0)
    assert migrations.current(connection) == migrations.head()
    migrations.check_revision(*migrations.stated(connection), schema="pgqueue")


@pytest.mark.parametrize("schema", ODD_SCHEMAS)
def test_any_schema_name_will_do(empty_database: str, connection: psycopg.Connection[Any], schema: str) -> None:
    migrations.migrate(empty_database, schema=schema)
    assert {"task", "alembic_version", "history_default", "new_id"} <= objects(connection, schema)
    assert migrations.current(connection, schema=schema) == migrations.head()
    connection.execute(sql.SQL("INSERT INTO {} (type) VALUES ('T')").format(sql.Identifier(schema, "task")))
    assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'pgqueue')").fetchone() == (0,)


def test_two_schemas_live_side_by_side(empty_database: str, connection: psycopg.Connection[Any]) -> None:
    migrations.migrate(empty_database, schema="one")
    migrations.migrate(empty_database, schema="two")
    assert objects(connection, "one") == objects(connection, "two")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_urls_of_any_spelling_are_understood(empty_database: str, scheme: str) -> None:
    assert migrations.migrate(url(empty_database, scheme)).after == migrations.head()


def test_partitions_of_the_coming_days_are_there(migrated: psycopg.Connection[Any]) -> None:
    row = migrated.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'pgqueue.history'::regclass").fetchone()
    assert row == (5,)


PROGRAM = """
import json, sys
from dataclasses import asdict
from pgqueue import migrations
sys.stdin.readline()
print(json.dumps(asdict(migrations.migrate(sys.argv[1]))))
"""


def test_ten_processes_may_start_at_once(empty_database: str, connection: psycopg.Connection[Any]) -> None:
    command = [sys.executable, "-c", PROGRAM, empty_database]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(10)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=DEADLINE_SECONDS) for process in processes]
    assert [errors for _, errors in answers] == [""] * 10
    outcomes = [Migration(**json.loads(output)) for output, _ in answers]
    assert sorted(outcome.steps for outcome in outcomes) == [0] * 9 + [int(migrations.head())]
    assert {outcome.after for outcome in outcomes} == {migrations.head()}
    assert connection.execute("SELECT count(*) FROM pgqueue.alembic_version").fetchone() == (1,)


def test_threads_of_one_process_may_migrate_at_once(empty_database: str) -> None:
    outcomes: list[Migration] = []
    names = [f"schema_{n % 3}" for n in range(9)]
    threads = [threading.Thread(target=lambda n=n: outcomes.append(migrations.migrate(empty_database, schema=n))) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert sorted(outcome.steps for outcome in outcomes) == [0] * 6 + [int(migrations.head())] * 3


def test_who_waits_says_for_whom_and_goes_on(empty_database: str) -> None:
    messages: list[str] = []
    with psycopg.connect(empty_database, application_name="the other") as other:
        take = "SELECT pg_try_advisory_xact_lock(hashtextextended('pgqueue migrate pgqueue', 0))"
        assert other.execute(take).fetchone() == (True,)

        def on_wait(message: str) -> None:
            messages.append(message)
            other.rollback()

        assert migrations.migrate(empty_database, on_wait=on_wait).steps == int(migrations.head())
        assert f"process {other.info.backend_pid} (the other" in messages[0]
        assert "being migrated by another process" in messages[0]


def test_waiting_ends_with_the_timeout(empty_database: str, connection: psycopg.Connection[Any]) -> None:
    with psycopg.connect(empty_database) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('pgqueue migrate pgqueue', 0))")
        with pytest.raises(DatabaseUnavailable, match=rf"gave up waiting.*process {other.info.backend_pid}"):
            migrations.migrate(empty_database, timeout=timedelta(seconds=0.3))
    assert migrations.current(connection) is None


def test_a_table_in_use_is_waited_for_without_blocking_claims(empty_database: str, migrated: psycopg.Connection[Any]) -> None:
    def work(own: Any) -> None:
        own.connection.driver_connection.execute("ALTER TABLE pgqueue.task ADD COLUMN extra text")

    messages: list[str] = []
    with psycopg.connect(empty_database) as other:
        other.execute("SELECT FROM pgqueue.task")

        def on_wait(message: str) -> None:
            messages.append(message)
            migrated.execute("SELECT FROM pgqueue.task")  # nobody queues up before us
            other.rollback()

        migrations.locked(empty_database, work, schema="pgqueue", on_wait=on_wait)
        assert f'tables of schema "pgqueue" are in use: process {other.info.backend_pid}' in messages[0]


def test_a_migration_that_fails_leaves_nothing(empty_database: str, connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE SCHEMA pgqueue")
    connection.execute("CREATE TABLE pgqueue.audit (theirs text)")
    with pytest.raises(SchemaError, match='nothing was changed: relation "audit" already exists'):
        migrations.migrate(empty_database)
    assert objects(connection) == {"audit"}


def test_a_role_that_may_not_create_schemas_can_use_one_made_for_it(
    empty_database: str, connection: psycopg.Connection[Any]
) -> None:
    role = f"mig_{uuid.uuid4().hex[:16]}"
    connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    try:
        connection.execute(sql.SQL("CREATE SCHEMA pgqueue AUTHORIZATION {}").format(sql.Identifier(role)))
        assert migrations.migrate(make_conninfo(empty_database, options=f"-c role={role}")).after == migrations.head()
        with pytest.raises(SchemaError, match="permission denied"):
            migrations.migrate(make_conninfo(empty_database, options=f"-c role={role}"), schema="another")
    finally:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_a_role_with_a_stricter_isolation_level_migrates_too(empty_database: str) -> None:
    strict = make_conninfo(empty_database, options="-c default_transaction_isolation=serializable")
    assert migrations.migrate(strict).after == migrations.head()


def test_an_unreachable_database_is_said_to_be(empty_database: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="no connection to PostgreSQL"):
        migrations.migrate(make_conninfo(empty_database, dbname="there_is_none"))


def test_logging_and_the_working_directory_are_left_alone(empty_database: str) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), Path.cwd(), logging.getLogger("alembic").level)
    migrations.migrate(empty_database)
    assert (root.level, root.handlers, Path.cwd(), logging.getLogger("alembic").level) == before


# ── which revision ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_schema_that_is_not_migrated_is_refused_with_what_to_do() -> None:
    with pytest.raises(SchemaError, match='schema "mine" is not migrated: run `pgqueue migrate`'):
        migrations.check_revision(None, schema="mine")


def test_an_older_schema_is_refused_with_what_to_do() -> None:
    with pytest.raises(SchemaError, match=r"at revision 0000.*run `pgqueue migrate`"):
        migrations.check_revision("0000", "0000", schema="mine")


def test_a_newer_schema_is_fine_while_it_says_so() -> None:
    migrations.check_revision("9999", migrations.head(), schema="mine")
    for oldest_compatible in (None, "9998"):
        with pytest.raises(SchemaError, match="upgrade pgqueue here"):
            migrations.check_revision("9999", oldest_compatible, schema="mine")


def test_migrating_leaves_a_newer_schema_as_it_is(empty_database: str, migrated: psycopg.Connection[Any]) -> None:
    migrated.execute("UPDATE pgqueue.alembic_version SET version_num = '9999'")
    migrated.execute("COMMENT ON TABLE pgqueue.alembic_version IS 'pgqueue revision 9999, oldest compatible 0001'")
    assert migrations.migrate(empty_database) == Migration("9999", "9999", 0)
    migrated.execute("COMMENT ON TABLE pgqueue.alembic_version IS 'pgqueue revision 9999, oldest compatible 9999'")
    with pytest.raises(SchemaError, match="upgrade pgqueue here"):
        migrations.migrate(empty_database)


def test_a_lost_comment_is_written_again(empty_database: str, migrated: psycopg.Connection[Any]) -> None:
    migrated.execute("COMMENT ON TABLE pgqueue.alembic_version IS NULL")
    assert migrations.current(migrated) is None
    migrations.migrate(empty_database)
    assert migrations.current(migrated) == migrations.head()


def test_asking_for_the_revision_works_inside_a_transaction_and_without_rights(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        assert migrations.stated(connection, schema="nowhere") == (None, None)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def test_revisions_are_numbered_without_gaps_and_state_what_they_get_along_with() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migrations.directory()))
    script = ScriptDirectory.from_config(config)
    revisions = list(reversed(list(script.walk_revisions())))
    assert [revision.revision for revision in revisions] == [f"{n:04}" for n in range(1, len(revisions) + 1)]
    assert script.get_heads() == [migrations.head()]
    for revision in revisions:
        assert Path(revision.path).name.startswith(f"{revision.revision}_")
        assert "0001" <= revision.module.oldest_compatible <= revision.revision


# ── Alembic's own command ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("schema", ["pgqueue", 'A "quoted" %s näme'])
def test_alembic_upgrades_checks_and_downgrades(empty_database: str, connection: psycopg.Connection[Any], schema: str) -> None:
    dsn = url(empty_database, "postgresql+psycopg")
    for arguments, revision in [
        (("upgrade", "head"), migrations.head()),
        (("downgrade", "base"), None),
        (("upgrade", "head"), "0001"),
    ]:
        done = alembic(*arguments, dsn=dsn, schema=schema)
        assert done.returncode == 0, done.stderr
        assert migrations.current(connection, schema=schema) == revision
        if revision is None:
            assert objects(connection, schema) == {"alembic_version", "alembic_version_pkc"}
    checked = alembic("check", dsn=dsn, schema=schema)
    assert "No new upgrade operations detected" in checked.stdout + checked.stderr
    assert migrations.migrate(empty_database, schema=schema).steps == 0


def test_alembic_needs_a_database() -> None:
    failed = alembic("upgrade", "head")
    assert failed.returncode != 0
    assert "DATABASE_URL is not set" in failed.stderr


def test_the_printed_script_does_the_same(empty_database: str, connection: psycopg.Connection[Any]) -> None:
    printed = alembic("upgrade", "head", "--sql", schema="printed")
    assert printed.returncode == 0, printed.stderr
    connection.execute(printed.stdout.encode())
    migrations.check_revision(*migrations.stated(connection, schema="printed"), schema="printed")
    assert migrations.migrate(empty_database, schema="printed").steps == 0


# ── the models ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

COLUMNS = """
SELECT format('%%s.%%s %%s%%s %%s', relname, attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN ' not null' END,
              pg_get_expr(adbin, adrelid))
FROM pg_class
JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relnamespace = %(schema)s::text::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
  AND relname <> 'alembic_version'
ORDER BY relname, attnum
"""
INDEXES = """
SELECT pg_get_indexdef(indexrelid)
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE relnamespace = %(schema)s::text::regnamespace AND NOT relispartition
  AND relname <> 'alembic_version' AND indexrelid::regclass::text NOT LIKE '%%task_type_folded'
ORDER BY indexrelid::regclass::text
"""


@pytest.mark.parametrize("query", [COLUMNS, INDEXES])
def test_tables_made_from_the_models_equal_the_migrated_ones(migrated: psycopg.Connection[Any], query: str) -> None:
    from sqlalchemy import create_engine, create_mock_engine

    migrated.execute("SET search_path = ''")  # names come back with their schema then
    migrated.execute("CREATE SCHEMA drawn")
    migrated.execute("CREATE FUNCTION drawn.new_id() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'")
    script: list[str] = []
    dialect = create_engine("postgresql+psycopg://").dialect

    def note(element: Any, *_: Any, **__: Any) -> None:
        script.append(str(element.compile(dialect=dialect)))

    models.metadata_in("drawn").create_all(create_mock_engine("postgresql+psycopg://", note), checkfirst=False)
    for statement in script:
        migrated.execute(statement.encode())
    drawn = [row[0].replace("drawn.", "pgqueue.") for row in migrated.execute(query, {"schema": "drawn"})]
    made = [row[0] for row in migrated.execute(query, {"schema": "pgqueue"})]
    assert made == drawn


def test_a_model_reads_what_a_plain_insert_wrote(empty_database: str, migrated: psycopg.Connection[Any]) -> None:
    from sqlalchemy import create_engine, select
    from sqlalchemy.orm import Session

    migrated.execute("""INSERT INTO pgqueue.task (type, payload) VALUES ('Mail', '{"to": "a@b.c"}')""")
    engine = create_engine(url(empty_database, "postgresql+psycopg"))
    with Session(engine) as session:
        row = session.scalars(select(models.TaskRow).where(models.TaskRow.status == Status.SCHEDULED)).one()
    engine.dispose()
    assert (row.type, row.payload, row.priority, row.queue, row.attempt) == ("Mail", {"to": "a@b.c"}, 100, "default", 0)
    assert row.maturity_at.tzinfo is not None
    assert row.id.version == 7


# ── the rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

TASK_BREAKERS: list[tuple[str, dict[str, Any]]] = [
    ("task_priority_range", {"priority": -32768}),
    ("task_maturity_range", {"maturity_at": "infinity"}),
    ("task_maturity_range", {"maturity_at": "-infinity"}),
    ("task_maturity_range", {"maturity_at": "4713-01-01 BC"}),
    ("task_maturity_range", {"maturity_at": "294276-12-31"}),
    ("task_maturity_range", {"maturity_at": "9999-01-01 00:00+00"}),
    ("task_expires_range", {"expires_at": "infinity"}),
    ("task_created_range", {"created_at": "0001-12-31 00:00+00 BC"}),
    ("task_queue_length", {"queue": ""}),
    ("task_queue_length", {"queue": "q" * 10_000}),
    ("task_type_length", {"type": ""}),
    ("task_type_length", {"type": "t" * 10_000}),
    ("task_payload_size", {"payload": json.dumps({"x": "y" * 33_554_432})}),
    ("task_status_is_unfinished", {"status": "succeeded"}),
    ("task_status_is_unfinished", {"status": "dead"}),
    ("task_blocked_on_something", {"status": "blocked"}),
    ("task_blocked_on_something", {"status": "ready", "blocked_on": "type"}),
    ("task_running_has_runner", {"status": "ready", "runner_id": str(uuid.uuid4())}),
    ("task_running_has_runner", {"status": "running", "claim_id": str(uuid.uuid4()), "claimed_at": "2026-01-01"}),
    ("task_running_is_claimed", {"status": "running", "runner_id": str(uuid.uuid4()), "claim_id": str(uuid.uuid4())}),
    ("task_attempt_range", {"attempt": -1}),
    ("task_attempt_range", {"crashes": -1}),
    ("task_unique_key_length", {"unique_key": b"short"}),
]
SCHEDULE: dict[str, Any] = {"app": "a", "name": "n", "type": "T", "fingerprint": "f", "frequency": "1 minute"}
FINISHED: dict[str, Any] = {
    "queue": "q", "id": str(uuid.uuid4()), "type": "T", "priority": 1, "payload": "{}", "attempt": 1, "crashes": 0,
    "maturity_at": "2026-01-01", "created_at": "2026-01-01", "finished_at": "2026-01-01",
}  # fmt: skip
IDEMPOTENCY: dict[str, Any] = {"queue": "q", "task_id": str(uuid.uuid4()), "task_queue": "q", "expires_at": "2026-01-01"}
RUNNER: dict[str, Any] = {"id": str(uuid.uuid4()), "name": "n", "host": "h", "pid": 1, "version": "1"}
OTHER_BREAKERS: list[tuple[str, str, dict[str, Any]]] = [
    ("history_status_is_finished", "history", {**FINISHED, "status": "running"}),
    ("history_status_is_finished", "history", {**FINISHED, "status": "dead"}),
    ("idempotency_key_length", "idempotency", {**IDEMPOTENCY, "key": b"short"}),
    ("schedule_frequency_positive", "schedule", {**SCHEDULE, "frequency": "-1 second"}),
    ("schedule_frequency_positive", "schedule", {**SCHEDULE, "frequency": "0"}),
    ("schedule_missed_policy", "schedule", {**SCHEDULE, "missed": "some"}),
    ("schedule_name_length", "schedule", {**SCHEDULE, "name": "n" * 201}),
    ("schedule_name_length", "schedule", {**SCHEDULE, "app": ""}),
    ("schedule_target_length", "schedule", {**SCHEDULE, "queue": ""}),
    ("schedule_target_length", "schedule", {**SCHEDULE, "type": "t" * 201}),
    ("schedule_next_range", "schedule", {**SCHEDULE, "next_run_at": "infinity"}),
    ("schedule_one_recurrence", "schedule", {**SCHEDULE, "cron": "* * * * *"}),
    ("schedule_one_recurrence", "schedule", {**SCHEDULE, "frequency": None}),
    ("schedule_source", "schedule", {**SCHEDULE, "source": "elsewhere"}),
    ("schedule_slot_outcome", "schedule_slot", {"schedule_id": str(uuid.uuid4()), "slot_at": "2026-01-01", "outcome": "lost"}),
    ("runner_kind", "runner", {**RUNNER, "kind": "walker"}),
    ("runner_wanted", "runner", {**RUNNER, "wanted": "sleeping"}),
    ("queue_limits_positive", "queue", {"name": "q", "max_concurrency": 0}),
    ("queue_limits_positive", "queue", {"name": "q", "aging": "-1 hour"}),
    ("queue_name_length", "queue", {"name": ""}),
    ("task_type_name_length", "task_type", {"name": "t" * 10_000, "title": "T", "payload_schema": "{}"}),
    *(
        (rule, "task_type", {"name": "T", "title": "T", "payload_schema": "{}", "overrides": overrides})
        for rule, overrides in [
            ("task_type_overrides_object", "[]"),
            ("task_type_overrides_object", "null"),
            ("task_type_priority_range", '{"priority": -32768}'),
            ("task_type_priority_range", '{"priority": 1e30}'),
            ("task_type_priority_range", '{"priority": "100"}'),
            ("task_type_priority_range", '{"priority": null}'),
        ]
    ),
]
BREAKERS = [(rule, "task", {"type": "T", **row}) for rule, row in TASK_BREAKERS] + OTHER_BREAKERS


def insert(connection: psycopg.Connection[Any], table: str, row: dict[str, Any]) -> None:
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier("pgqueue", table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(map(sql.Literal, row.values())),
        )
    )


def test_no_rule_can_be_broken_by_hand(migrated: psycopg.Connection[Any]) -> None:
    for rule, table, row in BREAKERS:
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            insert(migrated, table, row)
        assert caught.value.diag.constraint_name == rule, row.keys()


def test_every_rule_has_somebody_who_tries_to_break_it(migrated: psycopg.Connection[Any]) -> None:
    rules = migrated.execute(
        "SELECT conname::text FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid "
        "WHERE contype = 'c' AND connamespace = 'pgqueue'::regnamespace AND NOT relispartition"
    )
    assert {rule for rule, _, _ in BREAKERS} == {name for (name,) in rules}


def test_two_task_types_that_differ_by_case_or_dashes_only_are_one(migrated: psycopg.Connection[Any]) -> None:
    insert(migrated, "task_type", {"name": "SendMail", "title": "T", "payload_schema": "{}"})
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(migrated, "task_type", {"name": "send-mail", "title": "T", "payload_schema": "{}"})


def test_ids_made_by_the_server_are_time_ordered(migrated: psycopg.Connection[Any]) -> None:
    rows = migrated.execute("SELECT pgqueue.new_id(), pg_sleep(0.002) FROM generate_series(1, 20)").fetchall()
    ids = [row[0] for row in rows]
    assert ids == sorted(ids)
    assert {(each.version, each.variant) for each in ids} == {(7, uuid.RFC_4122)}


def test_the_extremes_of_what_is_allowed_are_stored(migrated: psycopg.Connection[Any]) -> None:
    row = {"type": "t" * 200, "queue": "ü" * 200, "priority": -32767, "maturity_at": "9998-12-31 23:59:59+00", "payload": "{}"}
    insert(migrated, "task", {**row, "status": "ready"})
    insert(migrated, "task", {**row, "priority": 32767, "maturity_at": "0002-01-01 00:00+00"})
    found = migrated.execute("SELECT priority FROM pgqueue.task ORDER BY -priority").fetchall()
    assert found == [(32767,), (-32767,)]
