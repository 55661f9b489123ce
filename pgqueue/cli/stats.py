"""`pgqueue stats`: how much waits where, who is at work, what is due next. It never reads history, so its cost does not grow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pgqueue.cli.opening import opened, settings_of
from pgqueue.cli.output import STATUS_STYLES, Dsn, Json, Schema, brief, console, emit, table, when
from pgqueue.states import Status

if TYPE_CHECKING:
    from rich.console import Console

    from pgqueue.cli.opening import Opened

SCHEDULES_MAX = 1_000
SHOWN = (Status.SCHEDULED, Status.BLOCKED, Status.READY, Status.RUNNING, Status.DEAD)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the verb shows. Ages are seconds, by the database's clock."""

    at: datetime
    lease_seconds: float
    counts: dict[str, dict[Status, int]]
    oldest_ready_seconds: dict[str, float]
    runners: list[dict[str, Any]]
    schedules: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "totals": {status.value: self.total(status) for status in SHOWN},
            "queues": [
                {
                    "queue": queue,
                    **{status.value: counts.get(status, 0) for status in SHOWN},
                    "oldest_ready_seconds": self.oldest_ready_seconds.get(queue),
                }
                for queue, counts in self.counts.items()
            ],
            "runners": [{**_plain(runner), "is_alive": self.is_alive(runner)} for runner in self.runners],
            "schedules": [_plain(schedule) for schedule in self.schedules],
        }

    def total(self, status: Status) -> int:
        return sum(counts.get(status, 0) for counts in self.counts.values())

    def is_alive(self, runner: dict[str, Any]) -> bool:
        return bool(runner["silent_seconds"] <= self.lease_seconds)


def stats(dsn: Dsn = None, schema: Schema = None, json: Json = False) -> None:
    """Count unfinished and dead tasks by queue, with the runners at work and the schedules next due.

    Example: [bold]pgqueue stats --json | jq .totals.ready[/bold]
    """
    settings = settings_of(dsn, schema)
    with opened(settings) as database:
        found = collect(database, settings.lease)
    if json:
        emit(found.as_json())
        return
    screen = console()
    _queues(screen, found)
    _runners(screen, found)
    _schedules(screen, found)


def collect(database: Opened, lease: timedelta) -> Statistics:
    sql = database.sql
    runner = ("id", "name", "kind", "host", "pid", "version", "wanted", "slots", "running", "silent_seconds", "started_at")
    schedule = (
        "app", "name", "type", "queue", "frequency", "cron", "rrule", "timezone",
        "next_run_at", "last_run_at", "fired", "skipped", "is_paused",
    )  # fmt: skip
    return Statistics(
        at=database.rows(sql.clock())[0][0],
        lease_seconds=lease.total_seconds(),
        counts=database.queue.counts(),
        oldest_ready_seconds=dict(database.rows(sql.stats_queues())),
        runners=[dict(zip(runner, row, strict=True)) for row in database.rows(sql.stats_runners())],
        schedules=[dict(zip(schedule, row, strict=True)) for row in database.rows(sql.stats_schedules(limit=SCHEDULES_MAX))],
    )


def _queues(screen: Console, found: Statistics) -> None:
    result = table("queue", show_footer=len(found.counts) > 1)
    for status in SHOWN:
        result.add_column(status, f"{found.total(status):,}", justify="right", style=STATUS_STYLES[status])
    result.add_column("oldest ready", justify="right")
    result.columns[0].footer = "all"
    for queue, counts in found.counts.items():
        age = found.oldest_ready_seconds.get(queue)
        waits = "" if age is None else brief(timedelta(seconds=age))
        result.add_row(_text(queue), *(f"{counts[status]:,}" if counts.get(status) else "·" for status in SHOWN), waits)
    screen.print(result if found.counts else "no unfinished and no dead tasks")


def _runners(screen: Console, found: Statistics) -> None:
    screen.print()
    if not found.runners:
        screen.print("no runner or scheduler is at work: start one with `pgqueue runner`", style="yellow")
        return
    result = table("at work", "kind", "host")
    for header in ("running", "last beat"):
        result.add_column(header, justify="right", no_wrap=True)
    for runner in found.runners:
        beat = f"{brief(timedelta(seconds=runner['silent_seconds']))} ago"
        running = f"{runner['running']} of {runner['slots']}" if runner["kind"] == "runner" else ""
        style = "" if found.is_alive(runner) else "red"
        result.add_row(
            _text(runner["name"]), runner["kind"], _text(f"{runner['host']}, pid {runner['pid']}"), running, beat, style=style
        )
    screen.print(result)


def _schedules(screen: Console, found: Statistics) -> None:
    if not found.schedules:
        return
    screen.print()
    result = table("schedule", "task", "recurs")
    for header in ("next", "last", "fired", "skipped"):
        result.add_column(header, justify="right", no_wrap=True)
    for one in found.schedules:
        due = "paused" if one["is_paused"] else when(one["next_run_at"], found.at) if one["next_run_at"] else "never"
        last = when(one["last_run_at"], found.at)
        result.add_row(
            _text(one["name"]), _text(one["type"]), _text(_recurs(one)), due, last, f"{one['fired']:,}", f"{one['skipped']:,}"
        )
    screen.print(result)


def _recurs(schedule: dict[str, Any]) -> str:
    from pgqueue.durations import format_duration

    if schedule["frequency"] is not None:
        return f"every {format_duration(schedule['frequency'])}"
    return f"{schedule['cron'] or schedule['rrule']} ({schedule['timezone']})"


def _text(value: str) -> Any:
    """A name as it is: what looks like markup in it is none."""
    from rich.text import Text

    return Text(value)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, timedelta):
            return value.total_seconds()
        return value.isoformat() if isinstance(value, datetime) else value

    return {name: plain(value) for name, value in values.items()}
