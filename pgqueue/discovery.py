"""Finding tasks: the modules that `--tasks` or the settings name, else the package `tasks` of the working directory."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from pgqueue.errors import DiscoveryError
from pgqueue.registry import Registry, registry

DEFAULT_PACKAGE = "tasks"


def discover(modules: Iterable[str] = (), *, known: Registry = registry) -> list[str]:
    """Import the modules and return the names of the task types that are registered then.

    A package is imported with every module in it. The working directory is importable, for the console script as for `python -m`.
    Raises DiscoveryError naming the module that is broken, or that there is nothing to run; nothing may be started then.
    """
    _make_importable(Path.cwd())
    named = list(modules)
    for name in named or [DEFAULT_PACKAGE] * (importlib.util.find_spec(DEFAULT_PACKAGE) is not None):
        _import_all(name)
    if not len(known):
        has_package = importlib.util.find_spec(DEFAULT_PACKAGE) is not None
        looked = f"in {', '.join(named or [DEFAULT_PACKAGE])}"
        if not named and not has_package:
            looked = f"and there is no package `{DEFAULT_PACKAGE}` here"
        raise DiscoveryError(f"no tasks were found {looked}: name the modules that define them, e.g. --tasks myapp.tasks")
    return known.names()


def _import_all(name: str) -> None:
    module = _import(name)
    if hasattr(module, "__path__"):
        for info in pkgutil.walk_packages(module.__path__, f"{name}.", onerror=_raise_for):
            if not info.name.rpartition(".")[2].startswith("__"):
                _import(info.name)


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise DiscoveryError(f"{name!r} is no module: it takes a dotted name such as myapp.tasks")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a script without a main guard may exit
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and (name == missing or name.startswith(f"{missing}.")):
            raise DiscoveryError(f"there is no module {missing!r} (looked for {name!r} from {Path.cwd()})") from error
        raise DiscoveryError(f"the module {name!r} could not be imported: {type(error).__name__}: {error}") from error


def _raise_for(name: str) -> None:
    error = sys.exc_info()[1]
    raise DiscoveryError(f"the package {name!r} could not be imported: {type(error).__name__}: {error}") from error


def _make_importable(directory: Path) -> None:
    if str(directory) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(directory))
