"""Finding tasks: every module, a broken one named, nothing started without any."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgqueue.discovery import discover
from pgqueue.errors import DiscoveryError

HELLO = "from pgqueue import Task, task\n@task\nclass {name}(Task):\n    async def run(self) -> None: ...\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project as the working directory; what it imports is forgotten."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) is None or str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def _write(project: Path, **files: str) -> None:
    for name, text in files.items():
        path = project / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    importlib.invalidate_caches()


def test_the_tasks_package_of_the_working_directory_is_found_with_every_module(project: Path):
    _write(project, tasks__mail=HELLO.format(name="Mail"), tasks__deep__nightly=HELLO.format(name="Nightly"))
    (project / "tasks" / "__init__.py").touch()
    (project / "tasks" / "deep" / "__init__.py").touch()
    assert sorted(discover()) == ["mail", "nightly"]


def test_named_modules_are_imported_and_nothing_else(project: Path):
    _write(project, jobs=HELLO.format(name="Job"), tasks__mail=HELLO.format(name="Mail"))
    assert discover(["jobs"]) == ["job"]


def test_a_main_module_is_not_run_by_the_walk(project: Path):
    _write(project, tasks__mail=HELLO.format(name="Mail"))
    (project / "tasks" / "__main__.py").write_text("raise SystemExit('ran')")
    assert discover() == ["mail"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1/0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import missing_library", "No module named 'missing_library'"),
        ("import tasks_that_is_not_here", "No module named 'tasks_that_is_not_here'"),
        ("from pgqueue import Task, task\n@task(priority='x')\nclass A(Task):\n    def run(self): ...", "priority takes"),
    ],
)
def test_a_broken_module_is_named_with_its_reason(project: Path, text: str, reason: str):
    _write(project, tasks__broken=text, tasks__mail=HELLO.format(name="Mail"))
    with pytest.raises(DiscoveryError, match=rf"'tasks\.broken' could not be imported: .*{reason}"):
        discover()


def test_a_broken_package_is_named(project: Path):
    _write(project, tasks__sub__mail=HELLO.format(name="Mail"))
    (project / "tasks" / "__init__.py").touch()
    (project / "tasks" / "sub" / "__init__.py").write_text("1/0")
    with pytest.raises(DiscoveryError, match=r"'tasks\.sub' could not be imported: ZeroDivisionError"):
        discover()


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(DiscoveryError, match=r"there is no module 'myapp' \(looked for 'myapp\.tasks'"):
        discover(["myapp.tasks"])


def test_a_missing_library_is_not_mistaken_for_the_module_that_begins_like_it(project: Path):
    _write(project, redisq_tasks="import redisq")
    with pytest.raises(DiscoveryError, match="'redisq_tasks' could not be imported: .*No module named 'redisq'"):
        discover(["redisq_tasks"])


@pytest.mark.parametrize("name", ["", ".tasks", "tasks/mail.py", "tasks mail", "x" * 10 + "."])
def test_what_is_no_module_name_is_refused(name: str):
    with pytest.raises(DiscoveryError, match="is no module: it takes a dotted name"):
        discover([name])


def test_nothing_to_run_is_an_error_that_says_where_it_looked(project: Path):
    with pytest.raises(DiscoveryError, match="there is no package `tasks` here: name the modules"):
        discover()
    _write(project, tasks__empty="", other="")
    with pytest.raises(DiscoveryError, match="no tasks were found in tasks: name the modules"):
        discover()
    with pytest.raises(DiscoveryError, match="no tasks were found in other"):
        discover(["other"])


def test_the_working_directory_is_importable(project: Path):
    _write(project, lonely=HELLO.format(name="Lonely"))
    assert str(project) not in sys.path
    assert discover(["lonely"]) == ["lonely"]
