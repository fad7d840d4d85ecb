"""How a schedule and its runs are shown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rich.console import Console
from rich.table import Table

from paretopress.cli import tables
from paretopress.cli.context import print_json, to_dict
from paretopress.cli.results import budget_words
from paretopress.cli.schedule_options import REGISTRY
from paretopress.v1 import schedule_pb2


def show_schedule(schedule: schedule_pb2.Schedule, as_json: bool) -> None:
    """When, what, and how it went last."""
    if as_json:
        return print_json(to_dict(schedule))
    console = Console(highlight=False, soft_wrap=True)
    template = schedule.template
    console.print(f"{schedule.name if schedule.etag else 'valid'}  {schedule.display_name}", markup=False)
    console.print(f"  {schedule.cron} ({schedule.time_zone}), next run: {_next_run(schedule)}", markup=False)
    console.print(f"  {template.model} on {template.dataset}", markup=False)
    console.print(f"  target {tables.short(template.target)}, {budget_words(template.budget)}", markup=False)
    if schedule.HasField("register_as"):
        entry = schedule.register_as
        console.print(f"  the best is registered as {REGISTRY}{entry.model_name}@{entry.alias}", markup=False)
    if schedule.HasField("last_run"):
        console.print(f"  last run: {_last_run(schedule)}  {schedule.last_run.message}", markup=False)
    return None


def _next_run(schedule: schedule_pb2.Schedule) -> str:
    if schedule.paused:
        return "paused"
    return _when(schedule.next_run_time, schedule.time_zone) if schedule.HasField("next_run_time") else "ended"


def _last_run(schedule: schedule_pb2.Schedule) -> str:
    if not schedule.HasField("last_run"):
        return "never"
    return f"{_when(schedule.last_run.due_time, schedule.time_zone)} {run_state(schedule.last_run)}"


def run_state(one: schedule_pb2.ScheduleRun) -> str:
    """A state in words."""
    return tables.enum_word(schedule_pb2.ScheduleRun.State, one.state).lower().replace("_", " ")


def _when(timestamp: Any, time_zone: str) -> str:
    """In the schedule's own zone; where this machine does not know it, in UTC."""
    moment = timestamp.ToDatetime(UTC)
    try:
        return str(moment.astimezone(ZoneInfo(time_zone)).strftime("%Y-%m-%d %H:%M"))
    except (ZoneInfoNotFoundError, ValueError):
        return str(moment.strftime("%Y-%m-%d %H:%MZ"))


def schedule_table(schedules: Iterable[schedule_pb2.Schedule]) -> Table:
    """One line each."""
    columns: dict[str, Any] = dict.fromkeys(("schedule", "cron", "next run", "last run", "title"), "left")
    table = tables.narrow_table("schedules", columns, folds="title")
    for one in schedules:
        table.add_row(tables.short(one.name), one.cron, _next_run(one), _last_run(one), one.display_name)
    return table


def run_table(runs: Iterable[schedule_pb2.ScheduleRun], time_zone: str) -> Table:
    """What became of due times, in the schedule's own zone."""
    table = tables.narrow_table("runs", {"due": "left", "state": "left", "what": "left"}, folds="what")
    for one in runs:
        what = (tables.short(one.search), one.message, one.registered_version or one.registration_message)
        table.add_row(_when(one.due_time, time_zone), run_state(one), "; ".join(filter(None, what)))
    return table
