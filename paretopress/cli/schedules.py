"""``paretopress schedules``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.budget import (
    BatchSizeOption,
    ConfidenceOption,
    EpochsOption,
    LatencyOption,
    LimitOption,
    MacsOption,
    MaxDropOption,
    MaxSizeOption,
    MetricOption,
    PreferenceOption,
    ScopeOption,
    SeedOption,
    SizeKindOption,
    TargetOption,
    TechniqueOption,
    TrialsOption,
    WallTimeOption,
    make_budget,
    make_effort,
)
from paretopress.cli.choices import Metric, Preference, SizeKind, number
from paretopress.cli.context import JsonOption, UsageError, print_json, print_messages, state_of, to_dict
from paretopress.cli.schedule_options import (
    REGISTRY,
    CronOption,
    EndOption,
    GraceOption,
    MisfireOption,
    NameOption,
    OverlapOption,
    RegisterOption,
    RerunOption,
    StartOption,
    ZoneOption,
    make_schedule,
)
from paretopress.cli.schedule_tables import run_state, run_table, schedule_table, show_schedule
from paretopress.v1 import search_pb2

app = typer.Typer(help="Searches that are started at due times.", no_args_is_help=True)


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
    target: TargetOption = "cpu-ort-1t",
    latency_ms: LatencyOption = None,
    batch_size: BatchSizeOption = 1,
    max_size: MaxSizeOption = None,
    size_kind: SizeKindOption = SizeKind.ONNX_SIZE,
    macs: MacsOption = None,
    max_drop: MaxDropOption = None,
    confidence: ConfidenceOption = 0.0,
    limit: LimitOption = None,
    metric: MetricOption = Metric.TOP1,
    preference: PreferenceOption = Preference.FASTEST,
    scope: ScopeOption = None,
    technique: TechniqueOption = None,
    trials: TrialsOption = 0,
    wall_time_s: WallTimeOption = None,
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
    schedule_id: Annotated[str, typer.Option("--id", help="last part of the schedule's name")] = "",
    display_name: NameOption = "",
    validate_only: Annotated[bool, typer.Option("--validate-only", help="only check, and say when it would run first")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a search again and again, at the times of a cron line."""
    state = state_of(context)
    template = search_pb2.Search(
        model=model if model.startswith(REGISTRY) else state.full_name("models", model),
        dataset=state.full_name("datasets", dataset),
        target=state.full_name("targets", target),
        budget=make_budget(latency_ms, batch_size, max_size, size_kind, macs, max_drop, confidence, limit),
        metric=number(metric),
        preference=number(preference),
        scopes=scope or [],
        techniques=technique or [],
        effort=make_effort(trials, wall_time_s, seed, epochs),
    )
    schedule, _ = make_schedule(
        cron, time_zone, start, end, misfire, misfire_grace_s, overlap, display_name, register_as, rerun_unchanged
    )
    schedule.template.CopyFrom(template)
    with state.client() as client:
        made = client.validate_schedule(schedule) if validate_only else client.create_schedule(schedule, schedule_id=schedule_id)
    show_schedule(made, as_json)


@app.command("list")
def list_schedules(context: typer.Context, as_json: JsonOption = False) -> None:
    """List schedules, newest first."""
    with state_of(context).client() as client:
        schedules = list(client.list_schedules())
    if as_json:
        return print_messages(schedules)
    tables.table_console().print(schedule_table(schedules))
    return None


@app.command()
def show(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Show one schedule."""
    state = state_of(context)
    with state.client() as client:
        show_schedule(client.get_schedule(state.full_name("schedules", name)), as_json)


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
    schedule, fields = make_schedule(
        cron, time_zone, start, end, misfire, misfire_grace_s, overlap, display_name, register_as, rerun_unchanged
    )
    if not fields:
        raise UsageError("nothing to change; see `paretopress schedules update --help`")
    schedule.name = state.full_name("schedules", name)
    with state.client() as client:
        show_schedule(client.update_schedule(schedule, fields), as_json)


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
        show_schedule(client.pause_schedule(state.full_name("schedules", name)), as_json)


@app.command()
def resume(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Go on with a schedule at its next due time."""
    state = state_of(context)
    with state.client() as client:
        show_schedule(client.resume_schedule(state.full_name("schedules", name)), as_json)


@app.command()
def run(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Run a schedule now."""
    state = state_of(context)
    with state.client() as client:
        started = client.run_schedule(state.full_name("schedules", name))
    if as_json:
        return print_json(to_dict(started))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{run_state(started)}  {started.message}", markup=False)
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
    tables.table_console().print(run_table(listed, schedule.time_zone))
    return None
