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
from paretopress.cli.context import CliState, JsonOption, print_json, state_of, to_dict
from paretopress.cli.inputs import DatasetSource, ModelSource
from paretopress.cli.live import LiveSearch
from paretopress.cli.results import EXIT_CODES, show_search
from paretopress.client import Client
from paretopress.v1 import model_pb2, search_pb2


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
    metric: MetricOption = Metric.TOP1,
    preference: PreferenceOption = Preference.FASTEST,
    expected_accuracy: Annotated[float | None, typer.Option(help="fraction that the original is known to reach")] = None,
    scope: ScopeOption = None,
    technique: TechniqueOption = None,
    trials: TrialsOption = 0,
    wall_time_s: WallTimeOption = None,
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
    search_id: Annotated[str, typer.Option("--id", help="last part of the search's name")] = "",
    display_name: Annotated[str, typer.Option("--name", help="title for people")] = "",
    architecture: Annotated[str, typer.Option(help="for a .safetensors model")] = "",
    num_classes: Annotated[int, typer.Option(help="for a .safetensors model; 0 = its usual number")] = 0,
    height: Annotated[int, typer.Option(help="of the images; 0 = what the model reads")] = 0,
    width: Annotated[int, typer.Option(help="of the images; 0 = what the model reads")] = 0,
    channels: Annotated[int, typer.Option(help="of the images; 0 = what the model reads")] = 0,
    mean: Annotated[str, typer.Option(help="per channel, with commas, in units of --range")] = "",
    std: Annotated[str, typer.Option(help="per channel, with commas, in units of --range")] = "",
    range: Annotated[ValueRange, typer.Option(help="what 0..255 becomes first")] = ValueRange.ZERO_TO_ONE,
    layout: Annotated[Layout, typer.Option(help="axes of uploaded arrays")] = Layout.NHWC,
    resize: Annotated[Resize, typer.Option(help="how images are brought to size")] = Resize.NONE,
    resize_size: Annotated[int, typer.Option(help="length of the shortest side; 0 = the crop's")] = 0,
    crop: Annotated[Crop, typer.Option(help="what is cut off after resizing")] = Crop.NONE,
    interpolation: Annotated[Interpolation, typer.Option(help="how pixels are interpolated")] = Interpolation.BILINEAR,
    augmentation: Annotated[Augmentation, typer.Option(help="how training images are varied")] = Augmentation.SHIFT,
    skip_bad: Annotated[bool, typer.Option(help="leave unreadable images out")] = False,
    class_names: Annotated[
        str, typer.Option(help="classes in the order of the model's outputs: a,b,c or @file with one a line")
    ] = "",
    validate_only: Annotated[bool, typer.Option(help="only check, and say how long it would take")] = False,
    detach: Annotated[bool, typer.Option(help="do not follow the search")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search for the smallest, fastest network within a budget.

    Exit code 0: found; 1: failed or cancelled; 2: refused; 3: no candidate is within the budget, the nearest is shown.
    """
    state = state_of(context)
    with state.client() as client:
        stored = _model(client, state, model, ModelSource(Path(model), architecture, channels, height, width, num_classes), as_json)
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
            budget=make_budget(latency_ms, batch_size, max_size, size_kind, macs, max_drop, confidence),
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
    if not as_json:
        Console(stderr=True, highlight=False).print(f"{search.name} (Ctrl-C leaves it running)")
    try:
        with LiveSearch(client, search) as live:
            for event in client.watch(search.name, after_sequence):
                if not as_json:
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
    minutes = search.estimated_duration.ToTimedelta().total_seconds() / 60
    Console(highlight=False).print(f"valid; expected to take about {minutes:.1f} minutes")
    return None
