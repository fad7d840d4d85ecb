"""``paretopress datasets``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.choices import Augmentation, Crop, Interpolation, Layout, Resize, ValueRange
from paretopress.cli.context import JsonOption, print_json, print_messages, state_of, to_dict
from paretopress.cli.data_options import (
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
from paretopress.cli.inputs import DatasetSource
from paretopress.v1 import dataset_pb2

app = typer.Typer(help="Images that candidates are judged and trained on.", no_args_is_help=True)


@app.command()
def upload(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help=".npz, .csv, or .zip/.tar of class folders")],
    height: Annotated[int, typer.Option(help="pixels")],
    width: Annotated[int, typer.Option(help="pixels")],
    channels: Annotated[int, typer.Option(help="1 or 3")] = 3,
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
    on_server: Annotated[bool, typer.Option("--on-server", help="the path is on the server, under a dataset root")] = False,
    dataset_id: Annotated[str, typer.Option("--id", help="last part of the name")] = "",
    display_name: Annotated[str, typer.Option("--name", help="title for people")] = "",
    as_json: JsonOption = False,
) -> None:
    """Upload a dataset with the preprocessing that the model expects."""
    source = DatasetSource(
        path=path,
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
        dataset_id=dataset_id,
        display_name=display_name,
        on_server=on_server,
    )
    with state_of(context).client() as client:
        show_dataset(source.upload(client, silent=as_json), as_json)


@app.command("list")
def list_datasets(context: typer.Context, as_json: JsonOption = False) -> None:
    """List datasets, newest first."""
    with state_of(context).client() as client:
        datasets = list(client.list_datasets())
    if as_json:
        return print_messages(datasets)
    rows = (
        [tables.short(d.name), d.display_name, f"{d.image_count:,}", str(len(d.class_names)), splits(d), tables.when(d.create_time)]
        for d in datasets
    )
    tables.print_table("datasets", ("name", "title", "images", "classes", "splits", "uploaded"), rows)
    return None


@app.command()
def show(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Show one dataset."""
    state = state_of(context)
    with state.client() as client:
        show_dataset(client.get_dataset(state.full_name("datasets", name)), as_json)


@app.command()
def delete(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Delete a dataset; searches made from it keep their results."""
    state = state_of(context)
    full_name = state.full_name("datasets", name)
    with state.client() as client:
        client.delete_dataset(full_name)
    if as_json:
        print_json({"deleted": full_name})


def show_dataset(dataset: dataset_pb2.Dataset, as_json: bool) -> None:
    """One dataset in full."""
    if as_json:
        return print_json(to_dict(dataset))
    given = dataset.preprocessing
    lines = [
        f"{dataset.name}  {dataset.display_name}",
        f"  {dataset.image_count:,} images {given.height}x{given.width}x{given.channels}, {len(dataset.class_names)} classes",
        f"  {splits(dataset)} ({dataset.split_note})",
        f"  mean {list(given.mean)}, std {list(given.std)}",
        *(f"  problem: {p.place}: {p.description}" for p in dataset.problems),
    ]
    Console(highlight=False, soft_wrap=True, markup=False).print("\n".join(lines))
    return None


def splits(dataset: dataset_pb2.Dataset) -> str:
    """Images per split."""
    order = ("train", "validation", "selection", "test")
    return ", ".join(f"{name} {dataset.split_sizes[name]:,}" for name in order if name in dataset.split_sizes)
