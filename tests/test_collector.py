"""The cycle collector: quiet where that pays, and never switched off for good."""

from __future__ import annotations

import gc
import subprocess
import sys

CALM = """
import gc
from pgqueue.collector import YOUNG_MAX, calm_collector
before = gc.get_threshold()
{own}
calm_collector()
print(gc.isenabled(), gc.get_freeze_count() > 0, gc.get_threshold()[0] == YOUNG_MAX, gc.get_threshold()[1:] == before[1:])
"""


def calmed(own: str = "") -> str:
    return subprocess.run([sys.executable, "-c", CALM.format(own=own)], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_of_tasks_looks_at_young_objects_seldom_and_still_collects() -> None:
    assert calmed() == "True True True True"


def test_a_program_that_has_set_its_collector_is_left_alone() -> None:
    assert calmed("gc.disable()") == "False False False True"
    assert calmed("gc.set_threshold(50_000)").startswith("True False False")
    assert calmed("gc.set_threshold(0)").startswith("True False False")


def test_the_pause_ends_with_its_block() -> None:
    from pgqueue.collector import collector_paused

    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
