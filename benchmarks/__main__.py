"""`python -m benchmarks core [--json] [--only NAME…] [--quick] [--tasks N] [--runs N]`."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from benchmarks import core
from benchmarks.ground import Sizes

TASKS, QUICK_TASKS = 200_000, 20_000
RUNS = 3


def leave(number: int, frame: FrameType | None) -> None:
    """Runners lead sessions of their own: they are ended by the blocks that started them, or not at all."""
    raise SystemExit(128 + number)


def main() -> int:
    signal.signal(signal.SIGTERM, leave)
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure pgqueue on a PostgreSQL of its own.")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("core", help="the figures of docs/benchmarks.md, beside what is aimed at").add_argument
    add("--json", action="store_true", help="one JSON document instead of a table")
    add("--only", action="append", default=[], metavar="NAME[,NAME]", help="these figures only; repeatable")
    add("--quick", action="store_true", help="one run at small sizes, to see that everything works; the figures mean little")
    add("--tasks", type=int, metavar="N", help=f"tasks to drain, at least 2,000 ({TASKS:,}; quick: {QUICK_TASKS:,})")
    add("--runs", type=int, metavar="N", help=f"runs of each figure, interleaved ({RUNS}; quick: 1)")
    arguments = parser.parse_args()
    tasks = arguments.tasks or (QUICK_TASKS if arguments.quick else TASKS)
    if tasks < 2_000:
        parser.error("--tasks takes 2,000 or more: fewer say nothing")
    names = [name for part in arguments.only for name in part.split(",") if name]
    runs = arguments.runs or (1 if arguments.quick else RUNS)
    try:
        return core.run(sizes=Sizes(tasks, arguments.quick), runs=runs, only=names, as_json=arguments.json)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
