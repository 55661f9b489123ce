"""Makes the virtual environment that scripts/run, test, check and bench stand in, from nothing but a Python.

Called by scripts/setup with the profile to install. Uses the standard library only, since it runs before anything is
installed. It never touches an environment that it did not make, and one that was left half made is made anew.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("PGQUEUE_VENV") or ROOT / ".venv").absolute()
PYTHON = VENV / "bin" / "python"
# Present from the first moment, so that it tells our environments from others. Holds a stamp for each profile that is whole.
MARKER = VENV / "pgqueue-setup.json"
LOG = VENV / "pgqueue-setup.log"
# The Python below a virtual environment: `python3` may be the very environment that is about to be replaced.
BASE_PYTHON: str = getattr(sys, "_base_executable", None) or sys.executable

EXTRAS = ("embedded", "fast")
PROFILES: dict[str, tuple[str, ...]] = {"run": (), "dev": ("dev",)}  # profile -> dependency groups of pyproject.toml

LOG_LINES_SHOWN = 30

Command: TypeAlias = Sequence[str | Path]


class SetupError(Exception):
    """What the person at the terminal reads, whole: no traceback follows."""


def main(profile: str) -> None:
    if profile not in PROFILES:
        raise SetupError(f"usage: scripts/setup [{'|'.join(PROFILES)}]")
    if is_ready(profile):
        return
    with only_one_setup() as lock:
        if is_ready(profile):  # the one we waited for made it
            return
        started_at = time.monotonic()
        LOG.unlink(missing_ok=True)
        if not is_whole():
            remove_old()
            make(lock)
        install(profile, lock)
        say(f"ready, after {time.monotonic() - started_at:.0f} s")


# What is there


def is_ready(profile: str) -> bool:
    stamp = stamps().get(profile)
    return stamp is not None and stamp == stamp_of(python_of(PYTHON)) and is_wanted_python(stamp["python"])


def is_whole() -> bool:
    """Whether installing into it is enough. Not so when the checkout has moved: the scripts in bin/ name the old place."""
    there = stamps().values()
    return bool(there) and all(stamp["root"] == str(ROOT) for stamp in there) and is_wanted_python(python_of(PYTHON))


def stamps() -> dict[str, Any]:
    """The profiles that are installed, each with what it was installed from; empty for a half-made environment."""
    try:
        return dict(json.loads(MARKER.read_bytes()))
    except (OSError, ValueError):
        return {}


def stamp_of(python: list[str]) -> dict[str, Any]:
    """What makes an installation stale when it changes; the checkout's path because scripts and the editable install hold it."""
    return {"python": python, "root": str(ROOT), "pyproject": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()}


def python_of(executable: str | Path) -> list[str]:
    """Version and home of a Python; [] if it does not run, as when an upgrade of the distribution took it away."""
    code = "import sys; print('.'.join(map(str, sys.version_info[:3]))); print(sys.base_prefix)"
    try:
        command = [executable, "-I", "-S", "-c", code]
        return subprocess.check_output(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def is_wanted_python(python: list[str]) -> bool:
    """Any Python that runs will do, unless $PYTHON names one."""
    if not os.environ.get("PYTHON"):
        return bool(python)
    return python == python_of(BASE_PYTHON)


# Making it


@contextlib.contextmanager
def only_one_setup() -> Iterator[int]:
    """Holds a lock beside the environment. Children inherit it: if this process is killed, its pip still keeps others out."""
    try:
        VENV.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{VENV}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise SetupError(f"cannot write beside {VENV}: {error.strerror}. Set PGQUEUE_VENV to a directory of yours") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is at work here; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def remove_old() -> None:
    if not VENV.is_dir() or not any(VENV.iterdir()):
        return
    if not MARKER.exists():
        raise SetupError(f"{VENV} was not made by scripts/setup: remove it, or set PGQUEUE_VENV to another directory")
    # Renamed first: a removal that is interrupted must not leave an environment without its marker.
    trash = VENV.with_name(VENV.name + ".trash")
    shutil.rmtree(trash, ignore_errors=True)
    VENV.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def make(lock: int) -> None:
    python = python_of(BASE_PYTHON)
    say(f"making {shown(VENV)} with Python {python[0]}")
    VENV.mkdir(exist_ok=True)
    MARKER.write_text("{}")
    if run([BASE_PYTHON, "-m", "venv", VENV], lock) != 0:
        # Debian packs ensurepip apart from Python, in python3-venv; venv itself is there.
        if run([BASE_PYTHON, "-m", "venv", "--without-pip", VENV], lock) != 0:
            fail("could not make a virtual environment")
        add_pip(lock)


def install(profile: str, lock: int) -> None:
    before = stamps()
    now = stamp_of(python_of(PYTHON))  # of the pyproject.toml that is installed, should somebody change it meanwhile
    MARKER.write_text("{}")  # an interrupted pip can leave a package that looks installed: from here to the end nothing counts
    say(f"installing pgqueue{' with what its tests need' if profile == 'dev' else ''}{'' if before else ' (under a minute)'}")
    pip: Command = [PYTHON, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    if run([*pip, "--editable", f".[{','.join(EXTRAS)}]", *tools(profile)], lock) != 0:
        fail("could not install")
    done = [name for name, groups in PROFILES.items() if set(groups) <= set(PROFILES[profile])]
    new = MARKER.with_suffix(".new")
    new.write_text(json.dumps({**before, **dict.fromkeys(done, now)}, indent=1))
    new.replace(MARKER)


def tools(profile: str) -> list[str]:
    """The requirements of a profile's dependency groups, read here because pip reads them from 25.1 on only."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        groups = tomllib.load(file)["dependency-groups"]
    return [requirement for group in PROFILES[profile] for requirement in groups[group]]


def add_pip(lock: int) -> None:
    """Puts pip into an environment that has none: by the machine's own pip or uv, else from pip's wheel."""
    uv = shutil.which("uv")
    if run([BASE_PYTHON, "-m", "pip", "--python", PYTHON, "install", "--no-input", "pip"], lock) == 0:
        return
    if uv and run([uv, "pip", "install", "--python", PYTHON, "pip"], lock) == 0:
        return
    say("this Python comes without pip; fetching it")
    if run([PYTHON, ROOT / "scripts" / "fetch_pip.py"], lock) != 0:
        fail("could not fetch pip. Install it instead, e.g. apt install python3-venv")


# Saying and running


def run(command: Command, lock: int) -> int:
    """Runs a step with its output in the log; returns its exit code."""
    with LOG.open("a") as log:
        print("$", *command, file=log, flush=True)
        return subprocess.call(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock])


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def say(text: str) -> None:
    print(f"pgqueue: {text}", file=sys.stderr, flush=True)


def fail(what: str) -> NoReturn:
    lines = LOG.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    raise SetupError("\n".join([*lines, f"{what}; the log is {LOG}"]))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except SetupError as error:
        sys.exit(f"pgqueue: {error}")
    except KeyboardInterrupt:
        sys.exit("pgqueue: set-up interrupted; the next one starts afresh")
