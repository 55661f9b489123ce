"""Reaping what nobody else reaps. The first process of a container inherits every orphan in it, and without this they would stay
as zombies for as long as it lives."""

from __future__ import annotations

import os
from collections.abc import Collection

ORPHANS_MAX = 1_000
"""Reaped in one go; the rest the next time."""


def reap_orphans(own: Collection[int]) -> int:
    """Reap the dead children of this process that are none of its `own`; how many there were.

    Those of its own are left to whoever waits for them, who would be told that they never existed.
    """
    if not hasattr(os, "waitid"):  # macOS before Python 3.13, where nobody runs as the first process of a container
        return 0
    for count in range(ORPHANS_MAX):
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # there are no children at all
            return count
        if found is None or found.si_pid in own:
            return count
        os.waitpid(found.si_pid, 0)
    return ORPHANS_MAX
