"""Options of a search that several commands share: budget, effort, and what may be done."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration

from paretopress.cli.choices import Metric, Preference, SizeKind, number
from paretopress.v1 import search_pb2

LatencyOption = Annotated[float | None, typer.Option("--latency-ms", help="most milliseconds of one run on the target")]
BatchSizeOption = Annotated[int, typer.Option(help="images in one run, for --latency-ms")]
MaxSizeOption = Annotated[int | None, typer.Option("--max-size", help="most bytes")]
SizeKindOption = Annotated[SizeKind, typer.Option(help="which size --max-size limits")]
MacsOption = Annotated[int | None, typer.Option(help="most multiply-accumulates of one image")]
MaxDropOption = Annotated[float | None, typer.Option("--max-drop", help="most percentage points below the original")]
ConfidenceOption = Annotated[float, typer.Option(help="0 decides on the drop's estimate, 0.95 on its upper bound")]
TargetOption = Annotated[str, typer.Option(help="see `paretopress targets list`")]
MetricOption = Annotated[Metric, typer.Option(help="how accuracy is measured")]
PreferenceOption = Annotated[Preference, typer.Option(help="which member of the front is best")]
ScopeOption = Annotated[list[str] | None, typer.Option(help="pattern of modules that may be compressed; repeat")]
TechniqueOption = Annotated[list[str] | None, typer.Option(help="technique that may be used; repeat")]
TrialsOption = Annotated[int, typer.Option(help="most candidates; 0 = the server's default")]
WallTimeOption = Annotated[float | None, typer.Option(help="most seconds")]
SeedOption = Annotated[int, typer.Option(help="decides every random choice")]
EpochsOption = Annotated[float | None, typer.Option(help="most passes over the train split for one candidate")]


def make_budget(
    latency_ms: float | None,
    batch_size: int,
    max_size: int | None,
    size_kind: SizeKind,
    macs: int | None,
    max_drop: float | None,
    confidence: float,
) -> search_pb2.Budget:
    """The limits that were given."""
    return search_pb2.Budget(
        latency_ms=latency_ms,
        batch_size=batch_size,
        size_bytes=max_size,
        size_kind=number(size_kind),
        macs=macs,
        max_accuracy_drop_points=max_drop,
        confidence=confidence,
    )


def make_effort(trials: int, wall_time_s: float | None, seed: int, epochs: float | None) -> search_pb2.Effort:
    """The effort that was given; the server fills in the rest."""
    return search_pb2.Effort(max_trials=trials, max_wall_time=duration(wall_time_s), seed=seed, max_epochs=epochs)


def duration(seconds: float | None) -> Duration | None:
    """Seconds as a proto duration."""
    if seconds is None:
        return None
    result = Duration()
    result.FromNanoseconds(round(seconds * 1e9))
    return result
