"""Python's cycle collector, kept out of the way of bulk work. Ground: pure."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
