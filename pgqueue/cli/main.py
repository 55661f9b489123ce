"""`pgqueue`: the command line, put together. Errors end in one line on stderr; exit codes are those of `doors`, and 1."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pgqueue import doors
from pgqueue.cli import catalogue, migrate, queues, stats, task, up
from pgqueue.cli.output import EPILOG

app = typer.Typer(
    name="pgqueue",
    help="A task queue on PostgreSQL and nothing else.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Their flags are the doors' own: everything, --help included, is passed on as it comes.
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def main() -> None:
    """The console script."""
    sys.exit(doors.guarded(app))


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"pgqueue {version('pgqueue-tasks')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None: ...


app.command("up")(up.up)


@app.command("runner", context_settings=_PASSED_ON, add_help_option=False)
def _runner(context: typer.Context) -> None:
    """Run tasks until told to stop: `python -m pgqueue.runner`.

    Example: [bold]pgqueue runner --tasks myapp.tasks --queue mail=3 --queue default[/bold]
    """
    from pgqueue import runner

    raise typer.Exit(runner.main(context.args, prog="pgqueue runner"))


@app.command("scheduler", context_settings=_PASSED_ON, add_help_option=False)
def _scheduler(context: typer.Context) -> None:
    """Enqueue recurring tasks when they are due: `python -m pgqueue.scheduler`.

    Example: [bold]pgqueue scheduler --tasks myapp.tasks[/bold]
    """
    from pgqueue import scheduler

    raise typer.Exit(scheduler.main(context.args, prog="pgqueue scheduler"))


app.command("migrate")(migrate.migrate)
app.add_typer(task.app, name="task")
app.add_typer(queues.app, name="queues")
app.add_typer(catalogue.app, name="types")
app.command("stats")(stats.stats)
