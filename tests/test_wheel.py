"""What people install: the wheel, in an empty environment and an empty directory, migrates a database and runs a task."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
MYTASKS = """
from pgqueue import Task, task


@task
class Greet(Task[str]):
    name: str

    async def run(self) -> str:
        return f"Hello, {self.name}!"
"""
ENQUEUE = """
from mytasks import Greet
from pgqueue import Queue

with Queue() as queue:
    print(queue.enqueue(Greet(name="Ada")).id)
"""
DISTRIBUTIONS = """
import json
from importlib.metadata import distributions

print(json.dumps([distribution.metadata["Name"] for distribution in distributions()]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout, in an environment of its own that pip makes for the build."""
    directory = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", directory, ROOT, cwd=directory)
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The Python of an environment with nothing in it, not even pip: ours installs into it."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    return tmp_path / "venv" / "bin" / "python"


def test_the_wheel_holds_all_that_a_program_needs(names):
    assert "pgqueue/py.typed" in names
    for path in sorted((ROOT / "pgqueue").rglob("*.*")):
        if path.suffix in (".py", ".sql"):
            assert path.relative_to(ROOT).as_posix() in names
    for path in sorted((ROOT / "alembic").rglob("*.*")):
        if path.suffix in (".py", ".sql"):
            assert f"pgqueue/_alembic/{path.relative_to(ROOT / 'alembic').as_posix()}" in names


def test_the_wheel_holds_nothing_else(names):
    tops = {name.partition("/")[0] for name in names}
    assert {re.sub(r"-\d[\w.]*(?=\.dist-info$)", "", top) for top in tops} == {"pgqueue", "pgqueue_tasks.dist-info"}
    assert not any(
        re.search(r"(^|/)(tests?|benchmarks|examples|conftest\w*)(/|\.py$)|__pycache__|\.pyc$", name) for name in names
    )


def test_the_wheel_of_the_source_distribution_is_that_of_the_checkout(names, tmp_path):
    pytest.importorskip("build", reason="`build` is not installed; scripts/setup installs it")
    call(sys.executable, "-m", "build", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == names
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as files:
        packed = {name.partition("/")[2] for name in files.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "docs/index.md", "tests/test_wheel.py", "alembic/env.py"} <= packed


def test_the_core_pulls_in_the_core_dependencies_only(wheel, environment, tmp_path):
    install(environment, str(wheel))
    installed = {canonical(name) for name in json.loads(call(environment, "-c", DISTRIBUTIONS, cwd=tmp_path))}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {requirement_name(line) for line in project["dependencies"]}
    assert wanted <= installed
    extras = {requirement_name(line) for lines in project["optional-dependencies"].values() for line in lines}
    assert not (extras - {"pgqueue-tasks"}) & installed
    # Nothing for developers, for the web or for other databases comes along by a detour.
    assert not {"pytest", "mypy", "ruff", "hypothesis", "build", "starlette", "uvicorn", "asyncpg", "psycopg2"} & installed
    # Without the extra and without a database: one line that names both ways.
    done = subprocess.run(
        [environment.with_name("pgqueue"), "stats"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pgqueue-tasks[embedded]" in done.stderr
    assert "DATABASE_URL" in done.stderr


def test_the_installed_wheel_migrates_a_database_and_runs_a_task(wheel, environment, empty_database, tmp_path):
    install(environment, f"{wheel}[embedded]")
    directory = tmp_path / "empty"
    directory.mkdir()

    def run(*command: str | Path) -> str:
        return call(*command, cwd=directory, DATABASE_URL=empty_database)

    run(environment.with_name("pgqueue"), "migrate")
    (directory / "mytasks.py").write_text(MYTASKS)
    task_id = run(environment, "-c", ENQUEUE).strip()
    run(environment, "-m", "pgqueue.runner", "--tasks", "mytasks", "--drain")
    with psycopg.connect(empty_database) as connection:
        rows = connection.execute("SELECT id::text, type, status::text, result, attempt FROM pgqueue.history").fetchall()
    assert rows == [(task_id, "greet", "succeeded", "Hello, Ada!", 1)]
    assert sorted(path.name for path in directory.iterdir() if path.name != "__pycache__") == ["mytasks.py"]


def test_the_installed_wheel_starts_the_embedded_server(wheel, environment, tmp_path):
    install(environment, f"{wheel}[embedded]")
    directory = tmp_path / "e"
    directory.mkdir()
    (directory / "mytasks.py").write_text(MYTASKS)
    call(environment, "-c", ENQUEUE, cwd=directory)
    call(environment, "-m", "pgqueue.runner", "--tasks", "mytasks", "--drain", cwd=directory)
    listed = json.loads(call(environment, "-m", "pgqueue", "task", "list", "--json", cwd=directory))
    assert [task["status"] for task in listed["tasks"]] == ["succeeded"]


def install(environment: Path, requirement: str) -> None:
    """With the pip of this environment, from the index that is configured for it."""
    call(sys.executable, "-m", "pip", "--python", environment, "install", "--quiet", requirement, cwd=environment.parent)


def call(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run it, far from the checkout, and return what it printed. What it says of a failure is the failure's message."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**clean_environment(), **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Ours without what would point to the checkout or to a database."""
    ours = {"DATABASE_URL", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("PGQUEUE_")}


def requirement_name(line: str) -> str:
    found = re.match(r"[\w.-]+", line)
    assert found is not None
    return canonical(found[0])


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
