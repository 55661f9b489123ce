"""`python -m pgqueue.scheduler`: enqueue what recurs until told to stop.

SIGTERM or SIGINT: finish the firing that is under way, exit 0. Exit codes: see doors.py.
The work itself is `recurring.Scheduler`'s.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgqueue import doors

if TYPE_CHECKING:
    from pgqueue.schedules import Fired

logger = logging.getLogger("pgqueue.scheduler")
DESCRIPTION = "Enqueue recurring tasks until told to stop by SIGTERM or Ctrl-C. Several schedulers are harmless."


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pgqueue.scheduler") -> int:
    """Run the program with these arguments, by default the command line's, and return its exit code."""
    doors.leave_on_termination()
    parsed = doors.parser(prog, DESCRIPTION).parse_args(arguments)
    return doors.guarded(lambda: run(parsed))


def run(arguments: argparse.Namespace) -> None:
    """Discover the tasks, then fire their schedules. Raises PgQueueError before anything is started."""
    settings = doors.load_settings(arguments)
    doors.setup_logging(settings)

    from pgqueue.client import AsyncQueue
    from pgqueue.discovery import discover
    from pgqueue.recurring import Scheduler

    discover(settings.tasks)
    scheduler = Scheduler(
        AsyncQueue(settings=settings),
        name=arguments.name,
        complete=covers(settings.tasks, configured_modules(arguments)),
        settings=settings,
        observer=log_slot,
    )
    scheduler.run()


def configured_modules(arguments: argparse.Namespace) -> list[str]:
    """The modules that the settings name without the flag: all of the app's, where they name any."""
    return doors.load_settings(argparse.Namespace(**{**vars(arguments), "tasks": None})).tasks


def covers(modules: Sequence[str], configured: Sequence[str]) -> bool:
    """Whether these modules hold all the configured ones: a --tasks that names fewer must not disable the others' schedules."""
    return all(any(f"{name}.".startswith(f"{module}.") for module in modules) for name in configured)


def log_slot(fired: Fired) -> None:
    """Log what became of a slot: what was skipped so that it is seen, the rest for who wants to see everything."""
    if fired.task_id is None:
        logger.info("%s: skipped its slot of %s: %s", fired.name, fired.slot_at.isoformat(), fired.reason)
    else:
        logger.debug("%s: enqueued %s for its slot of %s", fired.name, fired.task_id, fired.slot_at.isoformat())


if __name__ == "__main__":
    sys.exit(main())
