"""The registry: names that match, names that clash, and one class met twice."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from pgqueue import ConfigurationError, Task, UnknownTask, registry, task
from pgqueue.registry import Registry


def _make(class_name: str, **options: object) -> type[Task]:
    async def run(self: Task) -> None: ...

    return task(**options)(type(class_name, (Task,), {"__module__": __name__, "__qualname__": class_name, "run": run}))


@pytest.mark.parametrize("name", ["send-email", "SendEmail", "send_email", "SEND-EMAIL", "sendemail", "_Send__Email-"])
def test_names_match_ignoring_case_and_dashes(name: str):
    _make("SendEmail")
    assert registry.get(name).name == "send-email"
    assert registry.find(name) is registry.get(name)


def test_an_unknown_name_is_refused_with_what_is_meant_or_known():
    with pytest.raises(UnknownTask, match=r"Known here: none; import the module"):
        registry.get("anything")
    _make("SendEmail")
    _make("Cleanup")
    with pytest.raises(UnknownTask, match=r"called 'send-emial'. Did you mean send-email\?"):
        registry.get("send-emial")
    with pytest.raises(UnknownTask, match="Known here: cleanup, send-email"):
        registry.get("zzz")
    with pytest.raises(UnknownTask, match="one of 10000 characters") as refusal:
        registry.get("x" * 10_000)
    assert len(str(refusal.value)) < 500
    for wrong in (None, 5, b"send-email"):
        with pytest.raises(UnknownTask):
            registry.get(wrong)


def test_two_classes_of_one_name_are_refused_and_both_named():
    one = type("Sync", (Task,), {"__module__": "app.one", "run": lambda self: None})
    other = type("Other", (Task,), {"__module__": "app.two", "run": lambda self: None})
    task(one)
    with pytest.raises(ConfigurationError, match=r"two task types are called 'SYNC_': app\.one\.Sync and app\.two\.Other"):
        task(name="SYNC_")(other)
    assert registry.get("sync").cls is one


def test_a_class_that_is_reloaded_is_one_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = _write(tmp_path, monkeypatch)
    first = registry.get("hello").cls
    importlib.reload(module)
    assert registry.names() == ["hello"]
    assert registry.get("hello").cls is not first


def test_a_class_loaded_as_main_and_by_name_is_one_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _write(tmp_path, monkeypatch)
    runpy.run_path(str(tmp_path / "hello_tasks.py"), run_name="__main__")
    assert registry.names() == ["hello"]


def test_a_script_run_as_main_and_imported_by_name_is_one_type(tmp_path: Path):
    (tmp_path / "hello_tasks.py").write_text(HELLO + "if __name__ == '__main__':\n    import hello_tasks\n    print('fine')\n")
    done = subprocess.run([sys.executable, "hello_tasks.py"], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_a_class_typed_twice_at_a_prompt_is_one_type():
    typed = textwrap.dedent(HELLO)
    done = subprocess.run([sys.executable, "-i", "-q"], input=typed + "\n" + typed, capture_output=True, text=True, timeout=50)
    assert "Error" not in done.stderr


def test_a_registry_knows_how_many_it_holds_and_in_what_order():
    own = Registry()
    assert len(own) == 0
    _make("Bravo")
    _make("Alpha")
    assert registry.names() == ["bravo", "alpha"]
    assert [known.name for known in registry] == ["bravo", "alpha"]


HELLO = """\
from pgqueue import Task, task
@task
class Hello(Task):
    async def run(self) -> None: ...

"""


def _write(directory: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (directory / "hello_tasks.py").write_text(HELLO)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "hello_tasks", raising=False)
    return importlib.import_module("hello_tasks")
