"""`pgqueue types`: which there are, and what is set over the options of their code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgqueue.cli.opening import opened, settings_of
from pgqueue.cli.output import EPILOG, Dsn, Json, Schema, console, emit, give_up, pretty_json, table
from pgqueue.overrides import STORED

if TYPE_CHECKING:
    from pgqueue.records import TypeRecord
    from pgqueue.retry import Retry

app = typer.Typer(help="Look at task types, and set their options without a deploy.", no_args_is_help=True, epilog=EPILOG)

Name = Annotated[str, typer.Argument(metavar="TYPE", help="The task type; case, - and _ do not matter.", show_default=False)]
NONE = "none"
"""What lifts an option that the code sets."""
UNREADABLE = "(this version cannot read it)"


@app.command("list")
def list_types(dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """List the task types that runners have registered.

    Example: [bold]pgqueue types list[/bold]
    """
    from rich.text import Text

    with opened(settings_of(dsn, schema)) as database:
        found = database.queue.types.list()
    if json:
        emit({"types": [one.as_json() for one in found]})
        return
    result = table("type", "priority", "timeout", "retry", "overrides", "runners", "status")
    for one in found:
        shown = _shown(one.effective)
        status = Text("enabled") if one.disabled_at is None else Text("disabled", style="yellow")
        cells = (one.name, *(shown[name] for name in ("priority", "timeout", "retry")), ", ".join(_names(one.overrides)) or NONE)
        result.add_row(*(Text(cell) for cell in cells), str(len(one.runners)), status)
    console().print(result if found else "no task type is registered: a runner does that when it starts")


@app.command("show")
def show(name: Name, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Show a task type: its options in the code, what is set over them, what applies, its payload's schema.

    Example: [bold]pgqueue types show send-email[/bold]
    """
    with opened(settings_of(dsn, schema)) as database:
        found = database.queue.types.get(name)
    if json:
        emit(found.as_json())
    else:
        _sheet(found)


@app.command("set")
def configure(
    name: Name,
    priority: Annotated[int | None, typer.Option("--priority", metavar="N", help="Of tasks enqueued from now on.")] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="Of attempts that start from now on: 30s, 5m; or none.")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option("--max-attempts", metavar="N", help="Retry: runs in all; 1 is no retry.")
    ] = None,
    backoff: Annotated[
        str | None, typer.Option("--backoff", metavar="KIND", help="Retry: exponential, linear or fixed pauses.")
    ] = None,
    initial: Annotated[str | None, typer.Option("--initial", metavar="TIME", help="Retry: the first pause.")] = None,
    maximum: Annotated[str | None, typer.Option("--maximum", metavar="TIME", help="Retry: the longest pause.")] = None,
    max_concurrency: Annotated[
        str | None, typer.Option("--max-concurrency", metavar="N", help="At most so many at a time, fleet-wide; or none.")
    ] = None,
    rate_limit: Annotated[
        str | None, typer.Option("--rate-limit", metavar="N/WINDOW", help="At most so many starts, as 100/minute; or none.")
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Set options over those of the code. What is not named stays as it is; runners follow within a few seconds.

    A retry policy is set whole: with one of its four options the others have their defaults.

    Example: [bold]pgqueue types set send-email --timeout 2m --max-attempts 8 --initial 30s[/bold]

    Example: [bold]pgqueue types set send-email --priority 200 --timeout none[/bold]
    """
    from pgqueue.durations import parse_duration

    options: Any = {} if priority is None else {"priority": priority}
    if timeout is not None:
        options["timeout"] = None if timeout == NONE else parse_duration(timeout)
    if (retry := _retry(max_attempts, backoff, initial, maximum)) is not None:
        options["retry"] = retry
    if max_concurrency is not None:
        options["max_concurrency"] = None if max_concurrency == NONE else _count(max_concurrency)
    if rate_limit is not None:
        options["rate_limit"] = None if rate_limit == NONE else rate_limit
    if not options:
        give_up("there is nothing to set: give an option, such as --timeout 2m; pgqueue types set --help lists them")
    with opened(settings_of(dsn, schema)) as database:
        _say(database.queue.types.update(name, **options), json=json)


@app.command("reset")
def reset(
    name: Name,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OPTION]...", help="priority, retry, timeout, max_concurrency, rate_limit; none: all."),
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    json: Json = False,
) -> None:
    """Go back to the options of the code: to these, or to all of them.

    Example: [bold]pgqueue types reset send-email timeout[/bold]
    """
    names = [option.replace("-", "_") for option in options or ()]
    with opened(settings_of(dsn, schema)) as database:
        _say(database.queue.types.reset(name, *names), json=json)


@app.command("disable")
def disable(name: Name, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Have no task of a type started any more: they wait, new ones too. What runs goes on.

    Example: [bold]pgqueue types disable send-email[/bold]
    """
    with opened(settings_of(dsn, schema)) as database:
        _say(database.queue.types.disable(name), json=json)


@app.command("enable")
def enable(name: Name, dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Have the tasks of a disabled type run again.

    Example: [bold]pgqueue types enable send-email[/bold]
    """
    with opened(settings_of(dsn, schema)) as database:
        _say(database.queue.types.enable(name), json=json)


def _retry(max_attempts: int | None, backoff: str | None, initial: str | None, maximum: str | None) -> Retry | None:
    """The policy that these words make; None where none was given. Raises ConfigurationError."""
    from pgqueue.durations import parse_duration
    from pgqueue.retry import Retry

    options: Any = {"max_attempts": max_attempts, "backoff": backoff}
    options |= {
        name: None if text is None else parse_duration(text) for name, text in (("initial", initial), ("maximum", maximum))
    }
    given = {name: value for name, value in options.items() if value is not None}
    return Retry(**given) if given else None


def _count(text: str) -> int | str:
    """What is no number is refused with the option's own words."""
    return int(text) if text.isascii() and text.isdigit() else text


def _say(found: TypeRecord, *, json: bool) -> None:
    if json:
        emit(found.as_json())
        return
    shown = _shown(found.effective)
    over = [f"{name} {shown.get(name, UNREADABLE)}" for name in _names(found.overrides)]
    print(f"{found.name}: {', '.join(over) or 'as in its code'}{'' if found.disabled_at is None else '; disabled'}")


def _sheet(found: TypeRecord) -> None:
    from rich.text import Text

    screen = console()
    state = "enabled" if found.disabled_at is None else f"disabled since {_instant(found.disabled_at)}"
    screen.print(Text.assemble((found.name, "bold"), "  ", found.title, "  ", (state, "bright_black")), soft_wrap=True)
    if found.description:
        screen.print(Text(found.description), soft_wrap=True)
    facts = {"first seen": _instant(found.first_seen_at), "runners": ", ".join(found.runners) or "none live"}
    for name, value in facts.items():
        screen.print(Text.assemble((f"{name:<12}", "bright_black"), value), soft_wrap=True)
    screen.print()
    result = table("option", "in the code", "set over it", "applies")
    code, over, applies = _shown(found.options), _shown(found.effective), _shown(found.effective)
    is_set = set(_names(found.overrides))
    for name in applies:
        result.add_row(*(Text(cell) for cell in (name, code.get(name, ""), over[name] if name in is_set else "", applies[name])))
    screen.print(result)
    screen.print()
    screen.print("payload", style="bright_black")
    screen.print(Text(pretty_json(found.payload_schema)), soft_wrap=True)


def _names(overrides: dict[str, Any]) -> list[str]:
    """The overrides by the names of their options, in one order; those that this version does not know come last."""
    known = [key for key in STORED.values() if key in overrides]
    return [key.removesuffix("_seconds") for key in dict.fromkeys([*known, *overrides])]


def _shown(options: dict[str, Any]) -> dict[str, str]:
    """Options for people: lengths of time as they are said."""
    from datetime import timedelta

    from pgqueue.durations import format_duration

    shown: dict[str, str] = {}
    for name, value in options.items():
        if value is None or value == []:
            text = NONE
        elif name.endswith("_seconds"):
            text = format_duration(timedelta(seconds=value))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        shown[name.removesuffix("_seconds")] = text
    return shown


def _instant(instant: Any) -> str:
    return str(instant.astimezone().isoformat(sep=" ", timespec="seconds"))
