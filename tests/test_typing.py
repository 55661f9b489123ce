"""Types: what a user writes passes the checkers as it is, and what is wrong is found before it runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, int]]:
    """File and line of every error that `mypy --strict` finds, without a plugin."""
    cache = ROOT / ".mypy_cache" / "typing"
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "/dev/null",
        "--strict",
        "--no-color-output",
        "--cache-dir",
        str(cache),
    ]
    done = subprocess.run([*command, str(HERE)], capture_output=True, text=True, cwd=tmp_path_factory.mktemp("mypy"), timeout=170)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [line.split(":", 3) for line in done.stdout.splitlines() if ": error:" in line]
    foreign = [line for line in lines if Path(line[0]).parent.name != "typing"]
    assert not foreign
    return {(Path(line[0]).name, int(line[1])) for line in lines}


@pytest.fixture(scope="module")
def pyright() -> set[tuple[str, int]]:
    """The same of pyright in its strict mode, where it is installed."""
    command = shutil.which("pyright", path=str(Path(sys.executable).parent)) or shutil.which("pyright")
    if command is None:
        pytest.skip("pyright is not installed")
    done = subprocess.run(
        [command, "--outputjson", "--pythonpath", sys.executable, str(HERE)], capture_output=True, text=True, timeout=170
    )
    if done.returncode not in (0, 1):
        pytest.skip(f"pyright does not run here: {done.stderr[:200]}")
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in found if one["severity"] == "error"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_what_a_user_writes_passes(checker: str, request: pytest.FixtureRequest):
    errors: set[tuple[str, int]] = request.getfixturevalue(checker)
    assert sorted(line for name, line in errors if name == "accepted.py") == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_what_is_wrong_is_a_type_error_and_nothing_else_is(checker: str, request: pytest.FixtureRequest):
    errors: set[tuple[str, int]] = request.getfixturevalue(checker)
    lines = (HERE / "refused.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert {line for name, line in errors if name == "refused.py"} == wrong
