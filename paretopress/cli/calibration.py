"""``paretopress targets calibrate``, ``calibrations`` and ``cancel``: a calibration as it goes on, and how it ended."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from paretopress.cli import tables
from paretopress.cli.context import JsonOption, print_json, print_messages, state_of, to_dict
from paretopress.cli.target_tables import summary_words
from paretopress.client import ENDED_CALIBRATIONS, Client
from paretopress.v1 import target_pb2

_MESSAGE_WIDTH = 34


def calibrate(
    context: typer.Context,
    target: str,
    seconds: Annotated[float, typer.Option(help="time for measuring, 10 to 900; fitting comes on top")] = 300.0,
    wait: Annotated[bool, typer.Option(help="follow it to its end")] = True,
    as_json: JsonOption = False,
) -> None:
    """Measure random networks on an attached target and replace its predictor. Exit code 1: failed or cancelled."""
    state = state_of(context)
    with state.client() as client:
        calibration = client.calibrate_target(state.full_name("targets", target), seconds)
        if wait:
            follow(client, calibration, as_json)
        else:
            show_calibration(calibration, as_json)


def calibrations(context: typer.Context, target: str, as_json: JsonOption = False) -> None:
    """List a target's calibrations, newest first."""
    state = state_of(context)
    with state.client() as client:
        found = list(client.list_calibrations(state.full_name("targets", target)))
    if as_json:
        return print_messages(found)
    columns = ("calibration", "state", "created", "message")
    table = tables.narrow_table("calibrations", dict.fromkeys(columns, "left"), folds="message")
    for one in found:
        table.add_row(tables.short(one.name), state_word(one), tables.when(one.create_time), one.message)
    Console(highlight=False, soft_wrap=True).print(table)
    return None


def cancel(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="TARGET/CALIBRATION, or its full name")],
    as_json: JsonOption = False,
) -> None:
    """Ask a calibration to stop; the target keeps the predictor that it had."""
    state = state_of(context)
    full_name = state.full_name("targets", name if name.startswith("projects/") else name.replace("/", "/calibrations/", 1))
    with state.client() as client:
        show_calibration(client.cancel_calibration(full_name), as_json)


def follow(client: Client, calibration: target_pb2.Calibration, as_json: bool) -> None:
    """Show a calibration until it has ended, then its summary; ends the command with 1 where there is none."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not as_json:
        console.print(f"{calibration.name} (Ctrl-C leaves it running)")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), disable=as_json, transient=True) as bar:
            task = bar.add_task("waits for a worker", total=1.0)
            for now in client.watch_calibration(calibration.name):
                bar.update(task, completed=now.progress, description=now.message[:_MESSAGE_WIDTH])
    except KeyboardInterrupt:
        console.print(f"still running; `paretopress targets cancel {calibration.name}` stops it")
        raise typer.Exit(130) from None
    show_calibration(now, as_json)
    if now.state != target_pb2.Calibration.SUCCEEDED:
        raise typer.Exit(1)


def show_calibration(calibration: target_pb2.Calibration, as_json: bool) -> None:
    """State and summary."""
    if as_json:
        return print_json(to_dict(calibration))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if calibration.HasField("summary"):
        target = tables.short(calibration.name.partition("/calibrations/")[0])
        console.print(f"calibrated {target}: {summary_words(calibration.summary)}")
    else:
        console.print(f"{calibration.name}  {state_word(calibration)}  {calibration.message}")
    return None


def state_word(calibration: target_pb2.Calibration) -> str:
    """State, with the progress while it goes on."""
    word = tables.enum_word(target_pb2.Calibration.State, calibration.state)
    return word if calibration.state in ENDED_CALIBRATIONS else f"{word} {calibration.progress:.0%}"
