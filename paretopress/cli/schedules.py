"""``paretopress schedules``."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.budget import (
    BatchSizeOption,
    ConfidenceOption,
    LatencyOption,
    MacsOption,
    MaxDropOption,
    MaxSizeOption,
    SizeKindOption,
    duration,
    make_budget,
    make_effort,
)
from paretopress.cli.choices import Metric, Preference, SizeKind, number
from paretopress.cli.context import JsonOption, UsageError, print_json, print_messages, state_of, to_dict
from paretopress.cli.results import budget_words
from paretopress.v1 import schedule_pb2, search_pb2

app = typer.Typer(help="Searches that are started at due times.", no_args_is_help=True)
_REGISTRY = "models:/"


class Misfire(Enum):
    """What to do about missed due times."""

    RUN_ONCE = "run-once"
    SKIP_MISSED = "skip-missed"
    RUN_ALL = "run-all"


class Overlap(Enum):
    """What to do while an earlier search has not ended."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL_PREVIOUS = "cancel-previous"


CronOption = Annotated[str, typer.Option(help="five fields: minute, hour, day of month, month, day of week")]
ZoneOption = Annotated[str, typer.Option("--time-zone", help="that --cron is read in, such as Europe/Berlin")]
StartOption = Annotated[str, typer.Option("--start", help="nothing is due before, such as 2027-01-01T00:00+01:00")]
EndOption = Annotated[str, typer.Option("--end", help="nothing is due from then on")]
MisfireOption = Annotated[Misfire | None, typer.Option(help="what to do about missed due times")]
GraceOption = Annotated[float | None, typer.Option("--misfire-grace-s", help="seconds that a run may be late")]
OverlapOption = Annotated[Overlap | None, typer.Option(help="what to do while an earlier search has not ended")]
NameOption = Annotated[str, typer.Option("--name", help="title for people")]
RegisterOption = Annotated[str, typer.Option("--register-as", help="NAME@ALIAS in the MLflow registry, for the best candidate")]
RerunOption = Annotated[bool | None, typer.Option(help="search again although the registry has no new version")]


@app.command()
def create(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="name of an uploaded model, or models:/NAME@ALIAS in the MLflow registry")],
    dataset: Annotated[str, typer.Argument(help="name of an uploaded dataset")],
    cron: CronOption,
    time_zone: ZoneOption = "UTC",
    start: StartOption = "",
    end: EndOption = "",
    misfire: MisfireOption = None,
    misfire_grace_s: GraceOption = None,
    overlap: OverlapOption = None,
    register_as: RegisterOption = "",
    rerun_unchanged: RerunOption = None,
    target: Annotated[str, typer.Option(help="see `paretopress targets list`")] = "cpu-ort-1t",
    latency_ms: LatencyOption = None,
    batch_size: BatchSizeOption = 1,
    max_size: MaxSizeOption = None,
    size_kind: SizeKindOption = SizeKind.ONNX_SIZE,
    macs: MacsOption = None,
    max_drop: MaxDropOption = None,
    confidence: ConfidenceOption = 0.0,
    metric: Annotated[Metric, typer.Option(help="how accuracy is measured")] = Metric.TOP1,
    preference: Annotated[Preference, typer.Option(help="which member of the front is best")] = Preference.FASTEST,
    scope: Annotated[list[str] | None, typer.Option(help="pattern of modules that may be compressed; repeat")] = None,
    technique: Annotated[list[str] | None, typer.Option(help="technique that may be used; repeat")] = None,
    trials: Annotated[int, typer.Option(help="most candidates; 0 = the server's default")] = 0,
    wall_time_s: Annotated[float | None, typer.Option(help="most seconds")] = None,
    seed: Annotated[int, typer.Option(help="decides every random choice")] = 0,
    epochs: Annotated[float | None, typer.Option(help="most passes over the train split for one candidate")] = None,
    schedule_id: Annotated[str, typer.Option("--id", help="last part of the schedule's name")] = "",
    display_name: NameOption = "",
    validate_only: Annotated[bool, typer.Option(help="only check, and say when it would run first")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a search again and again, at the times of a cron line."""
    state = state_of(context)
    template = search_pb2.Search(
        model=model if model.startswith(_REGISTRY) else state.full_name("models", model),
        dataset=state.full_name("datasets", dataset),
        target=state.full_name("targets", target),
        budget=make_budget(latency_ms, batch_size, max_size, size_kind, macs, max_drop, confidence),
        metric=number(metric),
        preference=number(preference),
        scopes=scope or [],
        techniques=technique or [],
        effort=make_effort(trials, wall_time_s, seed, epochs),
    )
    schedule, _ = _changes(
        cron, time_zone, start, end, misfire, misfire_grace_s, overlap, display_name, register_as, rerun_unchanged
    )
    schedule.template.CopyFrom(template)
    with state.client() as client:
        made = client.validate_schedule(schedule) if validate_only else client.create_schedule(schedule, schedule_id=schedule_id)
    _show(made, as_json)


@app.command("list")
def list_schedules(context: typer.Context, as_json: JsonOption = False) -> None:
    """List schedules, newest first."""
    with state_of(context).client() as client:
        schedules = list(client.list_schedules())
    if as_json:
        return print_messages(schedules)
    columns: dict[str, Any] = dict.fromkeys(("schedule", "cron", "next run", "last run", "title"), "left")
    table = tables.narrow_table("schedules", columns, folds="title")
    for schedule in schedules:
        table.add_row(tables.short(schedule.name), schedule.cron, _next_run(schedule), _last_run(schedule), schedule.display_name)
    Console().print(table)
    return None


@app.command()
def show(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Show one schedule."""
    state = state_of(context)
    with state.client() as client:
        _show(client.get_schedule(state.full_name("schedules", name)), as_json)


@app.command()
def update(
    context: typer.Context,
    name: str,
    cron: CronOption = "",
    time_zone: ZoneOption = "",
    start: StartOption = "",
    end: EndOption = "",
    misfire: MisfireOption = None,
    misfire_grace_s: GraceOption = None,
    overlap: OverlapOption = None,
    display_name: NameOption = "",
    register_as: RegisterOption = "",
    rerun_unchanged: RerunOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what is given; the rest stays."""
    state = state_of(context)
    schedule, fields = _changes(
        cron, time_zone, start, end, misfire, misfire_grace_s, overlap, display_name, register_as, rerun_unchanged
    )
    if not fields:
        raise UsageError("nothing to change; see `paretopress schedules update --help`")
    schedule.name = state.full_name("schedules", name)
    with state.client() as client:
        _show(client.update_schedule(schedule, fields), as_json)


@app.command()
def delete(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Delete a schedule; its searches stay."""
    state = state_of(context)
    full_name = state.full_name("schedules", name)
    with state.client() as client:
        client.delete_schedule(full_name)
    if as_json:
        print_json({"deleted": full_name})


@app.command()
def pause(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Let a schedule rest."""
    state = state_of(context)
    with state.client() as client:
        _show(client.pause_schedule(state.full_name("schedules", name)), as_json)


@app.command()
def resume(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Go on with a schedule at its next due time."""
    state = state_of(context)
    with state.client() as client:
        _show(client.resume_schedule(state.full_name("schedules", name)), as_json)


@app.command()
def run(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Run a schedule now."""
    state = state_of(context)
    with state.client() as client:
        started = client.run_schedule(state.full_name("schedules", name))
    if as_json:
        return print_json(to_dict(started))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{_run_state(started)}  {started.message}", markup=False)
    if started.search:
        console.print(f"next: paretopress searches watch {started.search}")
    return None


@app.command()
def runs(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """List what became of a schedule's due times, newest first."""
    state = state_of(context)
    full_name = state.full_name("schedules", name)
    with state.client() as client:
        schedule = client.get_schedule(full_name)
        listed = list(client.list_schedule_runs(full_name))
    if as_json:
        return print_messages(listed)
    table = tables.narrow_table("runs", {"due": "left", "state": "left", "what": "left"}, folds="what")
    for one in listed:
        what = (tables.short(one.search), one.message, one.registered_version or one.registration_message)
        table.add_row(_when(one.due_time, schedule.time_zone), _run_state(one), "; ".join(filter(None, what)))
    Console().print(table)
    return None


def _changes(
    cron: str,
    time_zone: str,
    start: str,
    end: str,
    misfire: Misfire | None,
    misfire_grace_s: float | None,
    overlap: Overlap | None,
    display_name: str,
    register_as: str,
    rerun_unchanged: bool | None,
) -> tuple[schedule_pb2.Schedule, list[str]]:
    """What the options say, and the fields that they set."""
    given = {
        "cron": cron or None,
        "time_zone": time_zone or None,
        "start_time": _moment(start, "--start"),
        "end_time": _moment(end, "--end"),
        "misfire_policy": schedule_pb2.Schedule.MisfirePolicy.Value(misfire.name) if misfire else None,
        "misfire_grace": duration(misfire_grace_s),
        "overlap_policy": schedule_pb2.Schedule.OverlapPolicy.Value(overlap.name) if overlap else None,
        "display_name": display_name or None,
        "register_as": _entry(register_as),
        "rerun_unchanged": rerun_unchanged,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    return schedule_pb2.Schedule(**fields), list(fields)  # type: ignore[arg-type]


def _moment(text: str, option: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise UsageError(f"{option} must be a time such as 2027-01-31T06:00+01:00, got {text!r}") from None


def _entry(text: str) -> schedule_pb2.RegistryEntry | None:
    if not text:
        return None
    name, separator, alias = text.removeprefix(_REGISTRY).rpartition("@")
    if not separator:
        raise UsageError(f"--register-as must be NAME@ALIAS, got {text!r}")
    return schedule_pb2.RegistryEntry(model_name=name, alias=alias)


def _show(schedule: schedule_pb2.Schedule, as_json: bool) -> None:
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
        console.print(f"  the best is registered as {_REGISTRY}{entry.model_name}@{entry.alias}", markup=False)
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
    return f"{_when(schedule.last_run.due_time, schedule.time_zone)} {_run_state(schedule.last_run)}"


def _run_state(one: schedule_pb2.ScheduleRun) -> str:
    return tables.enum_word(schedule_pb2.ScheduleRun.State, one.state).lower().replace("_", " ")


def _when(timestamp: Any, time_zone: str) -> str:
    """In the schedule's own zone; where this machine does not know it, in UTC."""
    moment = timestamp.ToDatetime(UTC)
    try:
        return str(moment.astimezone(ZoneInfo(time_zone)).strftime("%Y-%m-%d %H:%M"))
    except (ZoneInfoNotFoundError, ValueError):
        return str(moment.strftime("%Y-%m-%d %H:%MZ"))
