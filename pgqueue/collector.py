"""Python's cycle collector, kept out of the way of bulk work. Ground: pure."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_MAX = 10_000
"""Objects that are made before the collector looks at the young ones: a look takes a millisecond."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """No cycle collection within. For moments in which many objects are made that all stay: it finds nothing then, and walks all
    that the program holds again and again, which took a third of a bulk enqueue. Bounded, and never around a wait."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def calm_collector() -> None:
    """For a process that runs tasks and nothing else, once all of its code is loaded.

    A batch of tasks is some thousands of objects that soon go by themselves; to look at them after every 700 took a tenth of a
    drain. What is there by now is never looked at again. A program that has set the collector its own way is left alone.
    """
    threshold, *older = gc.get_threshold()
    if gc.isenabled() and 0 < threshold < YOUNG_MAX:
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_MAX, *older)
