"""What operators have said about the types of one runner: how each runs, and which may be claimed. Ground: told, it asks nobody.

Attempts look their type up here when they begin, claims name the types that may be claimed; neither costs a runner anything more
where nothing was said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from pgqueue.overrides import overridden, read
from pgqueue.records import loads
from pgqueue.registry import Registry

logger = logging.getLogger("pgqueue.runner")


class Policies:
    """`registry` has the types as they are to run, `claimable` the names of those that are not disabled, in order.

    Both change in place, on the runner's loop, so whoever was given one of them sees the change.
    """

    def __init__(self, registry: Registry, types: Sequence[str]) -> None:
        self._code = registry
        self._types = list(types)
        self._said: dict[str, tuple[str, bool]] = {}
        self.registry = registry.twin()
        self.claimable = list(types)

    def learn(self, rows: Iterable[tuple[str, str, bool]]) -> bool:
        """Rows of type_policies.sql: name, overrides as JSON text, whether it is disabled. Without one a type is as in its code.

        Returns whether `claimable` has changed. What cannot be read is left as the code has it, and reported once.
        """
        said = {name: (overrides, is_disabled) for name, overrides, is_disabled in rows}
        for name in self._types:
            overrides, was = said.get(name, ("{}", False))[0], self._said.get(name, ("{}", False))[0]
            if overrides != was:
                self._override(name, loads(overrides))
        claimable = [name for name in self._types if not said.get(name, ("{}", False))[1]]
        has_changed = claimable != self.claimable
        if has_changed:
            self._report(claimable)
            self.claimable[:] = claimable
        self._said = said
        return has_changed

    def _override(self, name: str, stored: object) -> None:
        self.registry.put(overridden(self._code.get(name), stored))
        _, complaints = read(stored)
        for complaint in complaints:
            logger.warning("an override of type %r is left out: %s. Set it anew, or reset it", name, complaint)

    def _report(self, claimable: Sequence[str]) -> None:
        for name in sorted({*self.claimable} - {*claimable}):
            logger.info("type %r was disabled: its tasks wait", name)
        for name in sorted({*claimable} - {*self.claimable}):
            logger.info("type %r was enabled", name)
