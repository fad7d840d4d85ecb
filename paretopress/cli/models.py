"""``paretopress models``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.context import JsonOption, print_json, print_messages, state_of, to_dict
from paretopress.cli.inputs import ModelSource
from paretopress.v1 import model_pb2

app = typer.Typer(help="Networks that can be compressed.", no_args_is_help=True)


@app.command()
def upload(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help=".pt2 (torch.export), .onnx, or .safetensors with --architecture")],
    architecture: Annotated[str, typer.Option(help="torchvision or timm name, for .safetensors")] = "",
    channels: Annotated[int, typer.Option(help="input channels of the architecture; 0 = 3")] = 0,
    height: Annotated[int, typer.Option(help="input height; 0 = its usual one")] = 0,
    width: Annotated[int, typer.Option(help="input width; 0 = its usual one")] = 0,
    num_classes: Annotated[int, typer.Option(help="outputs; 0 = its usual number")] = 0,
    model_id: Annotated[str, typer.Option("--id", help="last part of the name")] = "",
    display_name: Annotated[str, typer.Option("--name", help="title for people")] = "",
    as_json: JsonOption = False,
) -> None:
    """Upload a model."""
    source = ModelSource(path, architecture, channels, height, width, num_classes, model_id, display_name)
    with state_of(context).client() as client:
        show_model(source.upload(client, silent=as_json), as_json)


@app.command("list")
def list_models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List models, newest first."""
    with state_of(context).client() as client:
        models = list(client.list_models())
    if as_json:
        return print_messages(models)
    columns = ("name", "title", "format", "input", "parameters", "MACs", "ONNX size", "uploaded")
    tables.print_table("models", columns, (_row(model) for model in models))
    return None


@app.command()
def show(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Show one model."""
    state = state_of(context)
    with state.client() as client:
        show_model(client.get_model(state.full_name("models", name)), as_json)


@app.command()
def delete(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Delete a model; searches made from it keep their results."""
    state = state_of(context)
    full_name = state.full_name("models", name)
    with state.client() as client:
        client.delete_model(full_name)
    if as_json:
        print_json({"deleted": full_name})


def show_model(model: model_pb2.Model, as_json: bool) -> None:
    """One model in full."""
    if as_json:
        return print_json(to_dict(model))
    shape = "x".join(map(str, model.input_shape))
    notes = [*model.erased, *([model.size_note] if model.size_note else [])]
    lines = [
        f"[bold]{model.name}[/]  {model.display_name}",
        f"  input {shape}, {model.outputs} outputs, {model.parameters:,} parameters, {model.macs:,} MACs",
        f"  ONNX {tables.size(model.onnx_size_bytes)}, other resolutions {'yes' if model.size_is_free else 'no'}",
        *(f"  note: {note}" for note in notes),
    ]
    Console(highlight=False, soft_wrap=True).print("\n".join(lines))
    return None


def _row(model: model_pb2.Model) -> list[str]:
    shape = "x".join(map(str, model.input_shape))
    kind = model.architecture or tables.enum_word(model_pb2.Model.Format, model.format).lower()
    counts = [tables.count(model.parameters), tables.count(model.macs), tables.size(model.onnx_size_bytes)]
    return [tables.short(model.name), model.display_name, kind, shape, *counts, tables.when(model.create_time)]
