"""Types: what a user writes passes the checkers as it is, and what is wrong is found before it runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
CACHE = Path(__file__).parent.parent / ".mypy_cache" / "typing"
Errors = set[tuple[str, int]]
"""File and line of every error that a checker found."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both programs. The wrong one is kept as text, so that nobody else checks it."""
    directory = tmp_path_factory.mktemp("typing")
    shutil.copy(HERE / "accepted.py", directory)
    shutil.copy(HERE / "refused.py.txt", directory / "refused.py")
    return directory


@pytest.fixture(scope="module")
def mypy(programs: Path) -> Errors:
    """Of `mypy --strict`, without a plugin."""
    command = [sys.executable, "-m", "mypy", "--config-file", "/dev/null", "--strict", "--cache-dir", str(CACHE), "."]
    done = subprocess.run(command, capture_output=True, text=True, cwd=programs, timeout=170, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [line.split(":", 3) for line in done.stdout.splitlines() if ": error:" in line]
    return {(Path(line[0]).name, int(line[1])) for line in lines}


@pytest.fixture(scope="module")
def pyright(programs: Path) -> Errors:
    """Of pyright, as strict as it is unasked; basedpyright would be stricter."""
    (programs / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "."]
    done = subprocess.run(command, capture_output=True, text=True, cwd=programs, timeout=170, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in found if one["severity"] == "error"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_what_a_user_writes_passes(checker: str, request: pytest.FixtureRequest):
    errors: Errors = request.getfixturevalue(checker)
    assert sorted(line for name, line in errors if name != "refused.py") == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_what_is_wrong_is_a_type_error_and_nothing_else_is(checker: str, request: pytest.FixtureRequest):
    errors: Errors = request.getfixturevalue(checker)
    lines = (HERE / "refused.py.txt").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert {line for name, line in errors if name == "refused.py"} == wrong
