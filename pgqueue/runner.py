"""`python -m pgqueue.runner`: run tasks until told to stop.

SIGTERM or SIGINT: claim no more, finish what runs for up to --shutdown-timeout, give back the rest, exit 0; a second one: now.
Exit codes: see doors.py. This process is the supervisor (supervisor.py); the work is done by its children (child.py).
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgqueue import doors
from pgqueue.errors import ConfigurationError
from pgqueue.outcomes import Verdict

if TYPE_CHECKING:
    from pgqueue.completer import Settlement

logger = logging.getLogger("pgqueue.runner")
DESCRIPTION = "Run tasks until told to stop: SIGTERM or Ctrl-C finishes what runs, a second one stops at once."
_WEIGHTED = re.compile(r"(.+)=(-?\d+)", re.DOTALL)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pgqueue.runner") -> int:
    """Run the program with these arguments, by default the command line's, and return its exit code."""
    doors.leave_on_termination()
    parsed = parser(prog).parse_args(arguments)
    return doors.guarded(lambda: run(parsed))


def parser(prog: str) -> argparse.ArgumentParser:
    result = doors.parser(prog, DESCRIPTION)
    add = result.add_argument
    add(
        "--queue",
        action="append",
        metavar="NAME[=WEIGHT]",
        help="a queue to serve, with its share of the turns; repeatable (all queues)",
    )
    add("--type", action="append", metavar="NAME", help="a task type to run; repeatable (all that --tasks defines)")
    add("--concurrency", type=int, metavar="N", help="tasks that run at a time in each process (10)")
    add("--processes", type=int, metavar="N", help="child processes (1)")
    add(
        "--patience",
        type=doors.duration,
        metavar="TIME",
        help="how long a row lock may stand for a claim before it is written down (50ms); 0s: written down at once",
    )
    add("--no-listen", dest="listen", action="store_false", default=None, help="find tasks by polling only")
    add("--drain", action="store_true", help="end once nothing is ready or running")
    add("--shutdown-timeout", type=doors.duration, metavar="TIME", help="how long running tasks may finish (30s)")
    add("--max-tasks-per-process", type=int, metavar="N", help="replace a child process after about so many tasks (never)")
    add("--max-memory", type=doors.size, metavar="SIZE", help="replace a child process that takes up more, e.g. 512MB (never)")
    add("--kill-grace", type=doors.duration, metavar="TIME", help="kill a child so long after it should have ended (5s)")
    add("--max-crashes", type=int, metavar="N", help="a task is dead once it crashed its process so often alone (3)")
    return result


def run(arguments: argparse.Namespace) -> None:
    """Start children that run the tasks, and keep them at it. Raises PgQueueError for what they cannot work with."""
    settings = doors.load_settings(arguments)
    doors.setup_logging(settings)
    weights = None if arguments.queue is None else queue_weights(arguments.queue)

    from pgqueue.child import serve
    from pgqueue.children import Order
    from pgqueue.supervisor import Supervisor

    Supervisor(Order(settings, arguments.name, weights, arguments.type, arguments.drain), serve).run()


def queue_weights(values: Sequence[str]) -> dict[str, int]:
    """`["a=3", "b"]` as `{"a": 3, "b": 1}`. The last `=` counts, and only if a number follows: names may hold one."""
    weights: dict[str, int] = {}
    for value in values:
        match = _WEIGHTED.fullmatch(value)
        name, weight = (match[1], int(match[2])) if match else (value, 1)
        if name in weights:
            raise ConfigurationError(f"--queue {name} is given twice")
        weights[name] = weight
    return weights


def log_outcome(settlement: Settlement, is_ours: bool) -> None:
    """Log what an attempt came to: failures so that they are seen, the rest for who wants to see everything."""
    claimed, outcome = settlement.claimed, settlement.outcome
    if not is_ours or outcome.verdict is Verdict.RETURNED:
        return
    if outcome.failure is None and outcome.verdict is not Verdict.DEAD:
        logger.debug("%s %s: %s", claimed.type, claimed.id, outcome.verdict.name.lower())
        return
    then = "it is dead" if outcome.verdict is Verdict.DEAD else f"next attempt in {outcome.delay_seconds:g} s"
    why = (
        outcome.reason or "no reason given"
        if outcome.failure is None
        else f"{outcome.failure.error_type}: {outcome.failure.error}"
    )
    level = logging.ERROR if outcome.verdict is Verdict.DEAD else logging.WARNING
    logger.log(level, "%s %s: attempt %s failed, %s: %s", claimed.type, claimed.id, claimed.attempt, then, why)


if __name__ == "__main__":
    sys.exit(main())
