"""`python -m benchmarks core [--json] [--tasks N] [--runs N]`."""

from __future__ import annotations

import argparse

from benchmarks import core


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure pgqueue on a PostgreSQL of its own.")
    commands = parser.add_subparsers(dest="command", required=True)
    core_parser = commands.add_parser("core", help="drain no-op tasks with one process, beside pgbench with the same statements")
    core_parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    core_parser.add_argument("--tasks", type=int, default=200_000, metavar="N", help="tasks to drain (default 200,000)")
    core_parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each figure, interleaved (default 3)")
    arguments = parser.parse_args()
    core.run(tasks=arguments.tasks, runs=arguments.runs, as_json=arguments.json)


if __name__ == "__main__":
    main()
