"""``paretopress search``: uploads what is needed, creates a search, follows it, shows the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
from paretopress.cli.choices import (
    Augmentation,
    Crop,
    Interpolation,
    Layout,
    Metric,
    Preference,
    Resize,
    SizeKind,
    ValueRange,
    number,
)
from paretopress.cli.context import CliState, JsonOption, print_json, refuse_given, state_of, to_dict
from paretopress.cli.data_options import (
    PANEL,
    AugmentationOption,
    ClassNamesOption,
    CropOption,
    InterpolationOption,
    LayoutOption,
    MeanOption,
    RangeOption,
    ResizeOption,
    ResizeSizeOption,
    SkipBadOption,
    StdOption,
)
from paretopress.cli.inputs import DatasetSource, ModelSource, is_file
from paretopress.cli.live import LiveSearch
from paretopress.cli.results import EXIT_CODES, show_search
from paretopress.cli.tables import print_table
from paretopress.client import Client
from paretopress.v1 import model_pb2, search_pb2

SideOption = Annotated[int, typer.Option(help="of the images; 0 = what the model reads", rich_help_panel=PANEL)]
_OF_DATA = (
    "height", "width", "channels", "mean", "std", "range", "layout", "resize", "resize_size", "crop", "interpolation",
    "augmentation", "skip_bad", "class_names",
)  # fmt: skip
_OF_MODELS = ("architecture", "num_classes")
_SOURCES = {
    search_pb2.SearchPlan.MEASURED: ", by what an earlier search of this model took",
    search_pb2.SearchPlan.SCALED: ", by what a search of another model took",
    search_pb2.SearchPlan.GUESSED: ", roughly: no search has run there yet",
}


def search(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="model file, or name of an uploaded model")],
    dataset: Annotated[str, typer.Argument(help="dataset file, or name of an uploaded dataset")],
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
    expected_accuracy: Annotated[
        float | None, typer.Option(help="fraction that the original is known to reach", rich_help_panel="Budget")
    ] = None,
    scope: ScopeOption = None,
    technique: TechniqueOption = None,
    trials: TrialsOption = 0,
    wall_time_s: WallTimeOption = None,
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
    search_id: Annotated[str, typer.Option("--id", help="last part of the search's name")] = "",
    display_name: Annotated[str, typer.Option("--name", help="title for people")] = "",
    architecture: Annotated[str, typer.Option(help="for a .safetensors model", rich_help_panel="Model")] = "",
    num_classes: Annotated[int, typer.Option(help="for a .safetensors model; 0 = its usual number", rich_help_panel="Model")] = 0,
    height: SideOption = 0,
    width: SideOption = 0,
    channels: SideOption = 0,
    mean: MeanOption = "",
    std: StdOption = "",
    range: RangeOption = ValueRange.ZERO_TO_ONE,
    layout: LayoutOption = Layout.NHWC,
    resize: ResizeOption = Resize.NONE,
    resize_size: ResizeSizeOption = 0,
    crop: CropOption = Crop.NONE,
    interpolation: InterpolationOption = Interpolation.BILINEAR,
    augmentation: AugmentationOption = Augmentation.SHIFT,
    skip_bad: SkipBadOption = False,
    class_names: ClassNamesOption = "",
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="only check, and show the plan: what its time would be spent on")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="do not follow the search")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search for the smallest, fastest network within a budget.

    Exit code 0: found; 1: failed or cancelled; 2: refused; 3: no candidate is within the budget, the nearest is shown.
    """
    state = state_of(context)
    for text, noun, options in ((model, "model", _OF_MODELS), (dataset, "dataset", _OF_DATA)):
        if not is_file(text, f"{noun}s"):
            refuse_given(context, options, f"only go with a {noun} file: {text} was uploaded with its own")
    # Sizes describe the images; only a network that is built from weights has to be told them as well.
    sizes = (channels, height, width) if architecture else (0, 0, 0)
    with state.client() as client:
        stored = _model(client, state, model, ModelSource(Path(model), architecture, *sizes, num_classes), as_json)
        channels, height, width = (
            given or expected for given, expected in zip((channels, height, width), stored.input_shape, strict=True)
        )
        source = DatasetSource(
            path=dataset,
            height=height,
            width=width,
            channels=channels,
            mean=mean,
            std=std,
            range=range,
            layout=layout,
            resize=resize,
            resize_size=resize_size,
            crop=crop,
            interpolation=interpolation,
            augmentation=augmentation,
            skip_bad=skip_bad,
            class_names=class_names,
        )
        request = search_pb2.Search(
            display_name=display_name,
            model=stored.name,
            dataset=_dataset_name(client, state, source, as_json),
            target=state.full_name("targets", target),
            budget=make_budget(latency_ms, batch_size, max_size, size_kind, macs, max_drop, confidence, limit),
            metric=number(metric),
            preference=number(preference),
            expected_accuracy=expected_accuracy,
            scopes=scope or [],
            techniques=technique or [],
            effort=make_effort(trials, wall_time_s, seed, epochs),
        )
        if validate_only:
            return _show_estimate(client.validate_search(request), as_json)
        created = client.create_search(request, search_id=search_id)
        if detach:
            return show_search(client, created, as_json)
        follow(client, created, as_json)
    return None


def follow(client: Client, search: search_pb2.Search, as_json: bool, after_sequence: int = 0) -> None:
    """Show a search until it has ended, then its result; ends the command with the exit code of the state."""
    events = client.watch(search.name, after_sequence)
    try:
        if as_json:
            for _ in events:
                continue
        else:
            Console(stderr=True, highlight=False, soft_wrap=True).print(f"{search.name} (Ctrl-C leaves it running)")
            with LiveSearch(client, search) as live:
                for event in events:
                    live.show(event)
    except KeyboardInterrupt:
        words = f"still running; `paretopress searches watch {search.name}` follows it, `... cancel ...` stops it"
        Console(stderr=True, highlight=False, soft_wrap=True).print(words)
        raise typer.Exit(130) from None
    ended = client.get_search(search.name)
    show_search(client, ended, as_json)
    code = EXIT_CODES.get(ended.state, 0)
    if code:
        raise typer.Exit(code)


def _model(client: Client, state: CliState, text: str, source: ModelSource, as_json: bool) -> model_pb2.Model:
    if source.path.exists():
        return source.upload(client, silent=as_json)
    return client.get_model(state.full_name("models", text))


def _dataset_name(client: Client, state: CliState, source: DatasetSource, as_json: bool) -> str:
    if Path(source.path).exists():
        return source.upload(client, silent=as_json).name
    return client.get_dataset(state.full_name("datasets", source.path)).name


def _show_estimate(search: search_pb2.Search, as_json: bool) -> None:
    if as_json:
        return print_json(to_dict(search))
    console = Console(highlight=False, soft_wrap=True)
    parts = {one.phase: one.duration.ToTimedelta().total_seconds() for one in search.plan.phases}
    within_s = sum(parts.values()) - parts.get("calibration", 0.0)
    limit_s = search.effort.max_wall_time.ToTimedelta().total_seconds()
    sure = _SOURCES.get(search.plan.source, "")
    console.print(f"valid; expected to take about {_minutes(within_s)} of at most {_minutes(limit_s)}{sure}")
    rows = [(one.phase, f"{parts[one.phase]:.0f} s", one.message) for one in search.plan.phases]
    print_table("", ("phase", "time", "what it is spent on"), rows)
    if within_s > limit_s:
        console.print(f"[yellow]warning[/]: {_minutes(limit_s)} may hold no candidate; allow at least {_minutes(1.1 * within_s)}")
    return None


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"
