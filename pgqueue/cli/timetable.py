"""Schedules on the screen: the table of `schedules list` and the sheet of `schedules show`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from pgqueue.cli.output import console, pretty_json, table, when
from pgqueue.doors import one_line

if TYPE_CHECKING:
    from pgqueue.schedule_records import Schedule, SchedulePage, SlotRecord


def schedule_table(page: SchedulePage, now: datetime) -> None:
    """One line a schedule; the app only where there are several."""
    screen = console()
    if not page.schedules:
        screen.print("no schedules", style="bright_black")
        return
    has_apps = len({schedule.app for schedule in page}) > 1
    result = table(*(["app"] if has_apps else []), "schedule", "task", "recurs")
    for header in ("next", "last", "fired", "skipped"):
        result.add_column(header, justify="right", no_wrap=True)
    for one in page:
        names = [one.app, one.name, one.type, one.recurs()][0 if has_apps else 1 :]
        result.add_row(
            *(Text(one_line(name)) for name in names),
            state(one, now),
            when(one.last_run_at, now),
            f"{one.fired_count:,}",
            f"{one.skipped_count:,}",
            style="" if one.enabled else "bright_black",
        )
    screen.print(result)
    if page.cursor is not None:
        screen.print(Text(f"more: --cursor '{page.cursor}'"), style="bright_black")


def state(schedule: Schedule, now: datetime | None = None) -> str:
    """When it is due next, or why it is not."""
    if not schedule.enabled:
        return f"ended: {schedule.ended_reason}" if schedule.ended_reason else "disabled"
    if schedule.paused_at is not None:
        return "paused"
    if schedule.next_run_at is None:
        return "never"
    return f"next {schedule.next_run_at.isoformat()}" if now is None else when(schedule.next_run_at, now)


def schedule_sheet(schedule: Schedule, slots: list[SlotRecord], now: datetime) -> None:
    """Everything that is stored about a schedule."""
    screen = console()
    screen.print(Text.assemble((one_line(schedule.name), "bold"), f"  {state(schedule)}"), soft_wrap=True)
    screen.print()
    for name, value in _facts(schedule, now).items():
        if value:
            screen.print(Text.assemble((f"{name:<10}", "bright_black"), value), soft_wrap=True)
    for name, document in (("payload", schedule.payload), ("options", schedule.options)):
        screen.print(Text.assemble((f"{name:<10}", "bright_black"), one_line(pretty_json(document))), soft_wrap=True)
    if not slots:
        return
    result = table("slot", "outcome", "task")
    for slot in slots:
        outcome = slot.outcome if slot.reason is None else f"{slot.outcome}: {slot.reason}"
        result.add_row(_instant(slot.slot_at, now), outcome, str(slot.task_id or ""))
    screen.print()
    screen.print(result)


def _facts(schedule: Schedule, now: datetime) -> dict[str, str]:
    runs = f"{schedule.fired_count:,} fired, {schedule.skipped_count:,} skipped, {schedule.triggered_count:,} triggered"
    return {
        "app": f"{one_line(schedule.app)}, made {'in code' if schedule.source == 'code' else 'at run time'}",
        "task": f"{one_line(schedule.type)} in queue {one_line(schedule.queue)}",
        "recurs": one_line(schedule.recurs()),
        "missed": schedule.missed,
        "starts": _instant(schedule.start_at, now) if schedule.start_at else "",
        "ends": _instant(schedule.end_at, now) if schedule.end_at else "",
        "max runs": f"{schedule.max_runs:,}" if schedule.max_runs else "",
        "paused": _instant(schedule.paused_at, now) if schedule.paused_at else "",
        "ended": f"{_instant(schedule.ended_at, now)}: {schedule.ended_reason}" if schedule.ended_at else "",
        "last run": _instant(schedule.last_run_at, now) if schedule.last_run_at else "",
        "slots": runs,
    }


def _instant(instant: datetime, now: datetime) -> str:
    return f"{instant.astimezone().isoformat(sep=' ', timespec='milliseconds')} ({when(instant, now)})"
