"""Settings: which source wins, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pgqueue import ConfigurationError, Queue, Settings
from pgqueue.settings import load


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no variables of ours."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "PGQUEUE_DATABASE_URL", "PGQUEUE_SCHEMA", "PGQUEUE_LEASE", "PGQUEUE_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_flag_wins_over_a_variable_over_dotenv_over_the_project_file(project: Path, monkeypatch: pytest.MonkeyPatch):
    assert load().concurrency == 10
    (project / "pyproject.toml").write_text("[tool.pgqueue]\nconcurrency = 1\nschema = 'one'\n")
    assert (load().concurrency, load().db_schema) == (1, "one")
    (project / ".env").write_text("PGQUEUE_CONCURRENCY=2\nPGQUEUE_SCHEMA=two\nOTHER=x\nPGQUEUE_UNHEARD_OF=1\n")
    assert (load().concurrency, load().db_schema) == (2, "two")
    monkeypatch.setenv("PGQUEUE_CONCURRENCY", "3")
    monkeypatch.setenv("PGQUEUE_SCHEMA", "three")
    assert (load().concurrency, load().db_schema) == (3, "three")
    assert (load(concurrency=4, schema="four").concurrency, load(db_schema="four").db_schema) == (4, "four")
    assert load(concurrency=None).concurrency == 3


def test_the_database_is_named_by_its_usual_variable_or_by_ours(project: Path, monkeypatch: pytest.MonkeyPatch):
    assert load().database_url is None
    (project / ".env").write_text("DATABASE_URL=postgresql://dotenv/x\n")
    assert load().database_url == "postgresql://dotenv/x"
    monkeypatch.setenv("DATABASE_URL", "postgresql://variable/x")
    assert load().database_url == "postgresql://variable/x"
    monkeypatch.setenv("PGQUEUE_DATABASE_URL", "postgresql://ours/x")
    assert load().database_url == "postgresql://ours/x"
    assert load(database_url="postgresql://flag/x").database_url == "postgresql://flag/x"


def test_durations_and_lists_are_written_as_people_write_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGQUEUE_LEASE", "1m30s")
    monkeypatch.setenv("PGQUEUE_TASKS", "app.tasks, app.more ,")
    assert load().lease == timedelta(seconds=90)
    assert load().tasks == ["app.tasks", "app.more"]
    assert load(tasks=["a"]).tasks == ["a"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lease": "soon"}, "lease: .*'soon' is not a duration"),
        ({"lease": "0s"}, "lease: .*above zero"),
        ({"poll_interval": 0}, "poll_interval: .*above zero"),
        ({"statement_deadline": 0}, "statement_deadline"),
        ({"patience": "11s"}, "patience 0:00:11 is too long for a lease of 0:00:30"),
        ({"heartbeat": "20s"}, "heartbeat 0:00:20 is too long for a lease of 0:00:30"),
        ({"history_retention": timedelta.max}, "history_retention: .*within 36500 days"),
        ({"concurrency": 0}, "concurrency: .*greater than or equal to 1"),
        ({"concurrency": "many"}, "concurrency"),
        ({"max_payload_bytes": 17 * 1024 * 1024}, "max_payload_bytes"),
        ({"schema": ""}, "schema"),
        ({"schema": "a\0"}, "control characters"),
        ({"schema": "pg_mine"}, "does not begin with pg_"),
        ({"schema": "ä" * 32}, "cuts names to 63 bytes"),
        ({"log_level": "loud"}, "log_level"),
        ({"leese": "5s"}, "there is none called 'leese'"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(flags: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message) as refusal:
        load(**flags)
    assert "\n" not in str(refusal.value)


def test_a_misspelt_name_in_the_project_file_is_refused(project: Path):
    (project / "pyproject.toml").write_text("[tool.pgqueue]\nleese = '5s'\n")
    with pytest.raises(
        ConfigurationError, match=r"\[tool\.pgqueue\] has no setting 'leese'; there are actor, app, audit_retention, claim_limit"
    ):
        load()


@pytest.mark.parametrize("text", ["[tool.pgqueue", "[tool]\npgqueue = 5\n", "\ud800"])
def test_a_project_file_that_cannot_be_read_is_refused_in_one_line(project: Path, text: str):
    (project / "pyproject.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigurationError) as refusal:
        load()
    assert "\n" not in str(refusal.value)


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        load().lease = timedelta(seconds=1)


def test_the_owner_of_schedules_is_the_setting_or_the_project_or_app(project: Path):
    assert load().application() == "app"
    (project / "pyproject.toml").write_text("[project]\nname = 'shop'\n")
    assert load().application() == "shop"
    assert load(app="other").application() == "other"


def test_a_client_checks_its_own_arguments():
    for pool_size in (0, -1, "5", True):
        with pytest.raises(ConfigurationError, match="pool_size takes 1 or more"):
            Queue(pool_size=pool_size)
    for schema in ("", "a\0"):
        with pytest.raises(ConfigurationError):
            Queue(schema=schema)
        with pytest.raises(ConfigurationError):
            Queue(schema=schema, settings=Settings())
