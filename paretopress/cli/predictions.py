"""``paretopress targets predict`` and ``compare``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from paretopress.cli.context import JsonOption, print_json, state_of, to_dict
from paretopress.cli.target_tables import UNCALIBRATED, ComparisonTable, KernelTable, most_expensive

TOP_KERNELS = 15

BatchOption = Annotated[int, typer.Option(help="images in one run")]
RecipeOption = Annotated[Path | None, typer.Option(help="recipe.json to apply first", exists=True, dir_okay=False)]


class Kernels(Enum):
    """Which kernels a prediction lists."""

    TOP = "top"
    ALL = "all"
    NONE = "none"


def predict(
    context: typer.Context,
    target: str,
    model: Annotated[str, typer.Argument(help="name of an uploaded model")],
    batch_size: BatchOption = 1,
    recipe: RecipeOption = None,
    kernels: Annotated[Kernels, typer.Option(help="top: the longest; all: in execution order")] = Kernels.TOP,
    as_json: JsonOption = False,
) -> None:
    """Predict a model's latency, with the share of every kernel and what makes it slow."""
    state = state_of(context)
    names = state.full_name("targets", target), state.full_name("models", model)
    with state.client() as client:
        answer = client.predict_latency(*names, batch_size, recipe.read_text() if recipe else "")
    if as_json:
        return print_json(to_dict(answer))
    console = Console(highlight=False)
    console.print(f"predicted {answer.latency_ms:.4g} ms ({answer.low_ms:.3g} to {answer.high_ms:.3g}), {answer.macs:,} MACs")
    if not answer.calibrated:
        console.print(UNCALIBRATED)
    elif answer.unknown_kernels:
        console.print(f"never measured there: {', '.join(answer.unknown_kernels)}")
    if kernels is Kernels.ALL:
        console.print(KernelTable(f"all {len(answer.kernels)} kernels, in execution order", answer.kernels))
    elif kernels is Kernels.TOP:
        top = most_expensive(answer.kernels, TOP_KERNELS)
        share = sum(kernel.share for kernel in top)
        console.print(KernelTable(f"{len(top)} of {len(answer.kernels)} kernels, {share:.0%} of the time", top))
    return None


def compare(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="name of an uploaded model")],
    targets: Annotated[list[str], typer.Argument(help="up to 20 targets")],
    batch_size: BatchOption = 1,
    recipe: RecipeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict one model's latency on several targets."""
    state = state_of(context)
    names = [state.full_name("targets", target) for target in targets]
    with state.client() as client:
        text = recipe.read_text() if recipe else ""
        answer = client.compare_targets(state.full_name("models", model), names, batch_size, text)
    if as_json:
        return print_json(to_dict(answer))
    Console(highlight=False, soft_wrap=True).print(ComparisonTable(answer.predictions))
    return None
