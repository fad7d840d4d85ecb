"""Options of a search that several commands share: budget, effort, and what may be done."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration

from paretopress.cli.choices import Metric, Preference, SizeKind, number
from paretopress.cli.data_options import one_of
from paretopress.v1 import search_pb2

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)(i?)B?", re.IGNORECASE)
_BUDGET, _SEARCH, _EFFORT = "Budget", "What may be done", "Effort"


def bytes_of(text: str) -> int:
    """``500000``, ``500kB``, ``1.5MB`` (millions) or ``1MiB`` (1,048,576) as bytes.

    Raises:
        BadParameter: it is none of these.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"give bytes, or a size such as 500kB, 1.5MB or 1MiB; got {text!r}")
    number, unit, binary = found.groups()
    scale: int = (1024 if binary else 1000) ** " kmg".index(unit.lower() or " ")
    return round(float(number) * scale)


LatencyOption = Annotated[
    float | None, typer.Option("--latency-ms", help="most milliseconds of one run on the target", rich_help_panel=_BUDGET)
]
BatchSizeOption = Annotated[int, typer.Option(help="images in one run, for --latency-ms", rich_help_panel=_BUDGET)]
MaxSizeOption = Annotated[
    int | None,
    typer.Option("--max-size", parser=bytes_of, metavar="SIZE", help="most bytes, such as 500kB or 1MB", rich_help_panel=_BUDGET),
]
SizeKindOption = Annotated[SizeKind, one_of(SizeKind, "which size --max-size limits", _BUDGET)]
MacsOption = Annotated[int | None, typer.Option(help="most multiply-accumulates of one image", rich_help_panel=_BUDGET)]
MaxDropOption = Annotated[
    float | None, typer.Option("--max-drop", help="most percentage points below the original", rich_help_panel=_BUDGET)
]
ConfidenceOption = Annotated[
    float, typer.Option(help="0 decides on the drop's estimate, 0.95 on its upper bound", rich_help_panel=_BUDGET)
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="NAME=MOST", help="any measurement, such as download_size_bytes=50kB; repeat", rich_help_panel=_BUDGET
    ),
]
TargetOption = Annotated[str, typer.Option(help="see `paretopress targets list`", rich_help_panel=_BUDGET)]
MetricOption = Annotated[Metric, one_of(Metric, "how accuracy is measured", _BUDGET)]
PreferenceOption = Annotated[Preference, one_of(Preference, "which member of the front is best", _BUDGET)]
ScopeOption = Annotated[
    list[str] | None, typer.Option(help="pattern of modules that may be compressed; repeat", rich_help_panel=_SEARCH)
]
TechniqueOption = Annotated[list[str] | None, typer.Option(help="technique that may be used; repeat", rich_help_panel=_SEARCH)]
TrialsOption = Annotated[int, typer.Option(help="most candidates; 0 = the server's default", rich_help_panel=_EFFORT)]
WallTimeOption = Annotated[float | None, typer.Option(help="most seconds", rich_help_panel=_EFFORT)]
SeedOption = Annotated[int, typer.Option(help="decides every random choice", rich_help_panel=_EFFORT)]
EpochsOption = Annotated[
    float | None, typer.Option(help="most passes over the train split for one candidate", rich_help_panel=_EFFORT)
]


def make_budget(
    latency_ms: float | None,
    batch_size: int,
    max_size: int | None,
    size_kind: SizeKind,
    macs: int | None,
    max_drop: float | None,
    confidence: float,
    limits: list[str] | None = None,
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
        limits=dict(_limit(text) for text in limits or ()),
    )


def _limit(text: str) -> tuple[str, float]:
    """``name=most``; sizes as `bytes_of` takes them.

    Raises:
        BadParameter: it is none.
    """
    name, _, most = text.partition("=")
    try:
        return name.strip(), bytes_of(most) if name.strip().endswith("_bytes") else float(most)
    except ValueError:
        raise typer.BadParameter(f"give a measurement and the most that it may be, such as macs=1000000; got {text!r}") from None


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
