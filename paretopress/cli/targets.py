"""``paretopress targets``."""

from __future__ import annotations

from typing import Annotated

import typer

from paretopress.cli import tables
from paretopress.cli.calibration import calibrate, calibrations, cancel
from paretopress.cli.context import JsonOption, print_json, print_messages, state_of
from paretopress.cli.predictions import compare, predict
from paretopress.cli.target_tables import TargetTable, show_target
from paretopress.v1 import target_pb2

app = typer.Typer(help="Hardware that results can be made for.", no_args_is_help=True)


@app.command("list")
def list_targets(context: typer.Context, as_json: JsonOption = False) -> None:
    """List targets: this machine's, the catalogue's, and registered ones."""
    with state_of(context).client() as client:
        targets = list(client.list_targets())
    if as_json:
        return print_messages(targets)
    tables.table_console().print(TargetTable(targets))
    return None


@app.command()
def show(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Show one target."""
    state = state_of(context)
    with state.client() as client:
        show_target(client.get_target(state.full_name("targets", name)), as_json)


@app.command()
def register(
    context: typer.Context,
    target_id: Annotated[str, typer.Argument(help="last part of its name")],
    device: Annotated[str, typer.Option(help="cpu, gpu, mcu, or the name of a chip")],
    runtime: Annotated[str, typer.Option(help="such as onnxruntime")],
    fp32_gmacs: Annotated[float, typer.Option(help="peak, billions of float32 MACs a second: half of the FLOPs")],
    bandwidth_gb_s: Annotated[float, typer.Option(help="of its memory, billions of bytes a second")],
    int8_gmacs: Annotated[float, typer.Option(help="the same for int8; 0 = it has no units for it")] = 0.0,
    per_kernel_us: Annotated[float, typer.Option(help="microseconds that starting a kernel takes")] = 0.0,
    source: Annotated[list[str] | None, typer.Option(help="where the figures come from; repeat")] = None,
    threads: Annotated[int, typer.Option(help="that the runtime uses; the peaks hold for all together")] = 1,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, int8; repeat; default: by the peaks")] = None,
    channel_multiple: Annotated[int, typer.Option(help="channel counts are best a multiple of this")] = 8,
    integer_type: Annotated[list[str] | None, typer.Option(help="uint8, int8; repeat; default: both")] = None,
    optimization: Annotated[str, typer.Option(help="all, extended, basic or none")] = "extended",
    display_name: Annotated[str, typer.Option("--name", help="title for people")] = "",
    validate_only: Annotated[bool, typer.Option("--validate-only", help="only check")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a target from its data sheet; its predictions always say that they are uncalibrated."""
    target = target_pb2.Target(
        display_name=display_name,
        device=device,
        runtime=runtime,
        threads=threads,
        precisions=precision or [],
        channel_multiple=channel_multiple,
        integer_types=integer_type or [],
        optimization=optimization,
        peaks=target_pb2.Peaks(
            fp32_gmacs=fp32_gmacs,
            int8_gmacs=int8_gmacs,
            bandwidth_gb_s=bandwidth_gb_s,
            per_kernel_us=per_kernel_us,
            sources=source or [],
        ),
    )
    with state_of(context).client() as client:
        made = client.validate_target(target, target_id) if validate_only else client.create_target(target, target_id)
    show_target(made, as_json)


@app.command()
def delete(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Delete a registered target."""
    state = state_of(context)
    full_name = state.full_name("targets", name)
    with state.client() as client:
        client.delete_target(full_name)
    if as_json:
        print_json({"deleted": full_name})


for command in (calibrate, calibrations, cancel, predict, compare):
    app.command()(command)
