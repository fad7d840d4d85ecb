"""Options of ``paretopress schedules``: when, and what to do when something comes in between."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Annotated

import typer

from paretopress.cli.budget import duration
from paretopress.cli.context import UsageError
from paretopress.cli.data_options import one_of
from paretopress.v1 import schedule_pb2

REGISTRY = "models:/"


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
StartOption = Annotated[str, typer.Option("--start", help="nothing is due before, such as 2027-01-01T06:00")]
EndOption = Annotated[str, typer.Option("--end", help="nothing is due from then on")]
MisfireOption = Annotated[Misfire | None, one_of(Misfire, "what to do about missed due times")]
GraceOption = Annotated[float | None, typer.Option("--misfire-grace-s", help="seconds that a run may be late")]
OverlapOption = Annotated[Overlap | None, one_of(Overlap, "what to do while an earlier search has not ended")]
NameOption = Annotated[str, typer.Option("--name", help="title for people")]
RegisterOption = Annotated[str, typer.Option("--register-as", help="NAME@ALIAS in the MLflow registry, for the best candidate")]
RerunOption = Annotated[
    bool | None, typer.Option("--rerun-unchanged/--no-rerun", help="search again although the registry has no new version")
]


def make_schedule(
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
    name, separator, alias = text.removeprefix(REGISTRY).rpartition("@")
    if not separator:
        raise UsageError(f"--register-as must be NAME@ALIAS, got {text!r}")
    return schedule_pb2.RegistryEntry(model_name=name, alias=alias)
