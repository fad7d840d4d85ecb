"""``paretopress targets``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.context import JsonOption, print_json, print_messages, state_of, to_dict

app = typer.Typer(help="Hardware that results can be made for.", no_args_is_help=True)


@app.command("list")
def list_targets(context: typer.Context, as_json: JsonOption = False) -> None:
    """List targets."""
    with state_of(context).client() as client:
        targets = list(client.list_targets())
    if as_json:
        return print_messages(targets)
    rows = (
        [
            tables.short(t.name),
            t.display_name,
            t.runtime,
            str(t.threads),
            ", ".join(t.precisions),
            "yes" if t.calibrated else "not yet",
        ]
        for t in targets
    )
    tables.print_table("targets", ("name", "title", "runtime", "threads", "precisions", "calibrated"), rows)
    return None


@app.command()
def predict(
    context: typer.Context,
    target: str,
    model: Annotated[str, typer.Argument(help="name of an uploaded model")],
    batch_size: Annotated[int, typer.Option(help="images in one run")] = 1,
    recipe: Annotated[Path | None, typer.Option(help="recipe.json to apply first", exists=True, dir_okay=False)] = None,
    kernels: Annotated[bool, typer.Option(help="show every fused kernel")] = False,
    as_json: JsonOption = False,
) -> None:
    """Predict a model's latency."""
    state = state_of(context)
    names = state.full_name("targets", target), state.full_name("models", model)
    with state.client() as client:
        answer = client.predict_latency(*names, batch_size, recipe.read_text() if recipe else "")
    if as_json:
        return print_json(to_dict(answer))
    words = f"predicted {answer.latency_ms:.3g} ms ({answer.low_ms:.3g} to {answer.high_ms:.3g}), {answer.macs:,} MACs"
    Console(highlight=False).print(words)
    if answer.unknown_kernels:
        Console(highlight=False).print(f"without a predictor of their own: {', '.join(answer.unknown_kernels)}")
    if kernels:
        tables.print_table("kernels", ("name", "kind", "ms"), ([k.name, k.kind, f"{k.latency_ms:.4g}"] for k in answer.kernels))
    return None
