"""``python -m benchmarks.hw_pricing PREDICTOR N``: price 5,000 recipes of ResNet-20; ``... export``: export and measure a few."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.hw_variants import calibration_context, random_recipe, resnet20
from hw_models.predictor import Predictor
from paretopress.runtime.measure import measure_latency
from search.pricing import Pricer
from techniques.apply import apply_recipe
from techniques.export import to_onnx
from techniques.network import Network
from techniques.pruning.structured import groups
from techniques.recipe import Recipe, Step

RECIPES = 5000
EXPORTS = 8


def recipes(network: Network, seed: int, count: int) -> list[Recipe]:
    """Blocks removed, groups pruned, half of them quantised, as a search proposes them; ranks by number, not by energy."""
    generator = np.random.default_rng(seed)
    names = list(groups(network, calibration_context()))
    found = []
    for index in range(count):
        begun = [step for step in random_recipe(2 * index + seed, network, 8).steps if step.technique == "block_removal"]
        gone = tuple(f"{b}." for step in begun for b in step.config["blocks"])
        ratios = {n: float(generator.uniform(0, 0.7)) for n in names if not n.startswith(gone or ("-",))}
        steps = [*begun, Step("structured_pruning", {"ratios": ratios}), Step("distillation", {})]
        found.append(Recipe(tuple([*steps, Step("int8_quantization", {})] if index % 2 else steps)))
    return found


def timed(one: Callable[[Recipe], object], chosen: list[Recipe]) -> dict[str, float]:
    """Milliseconds each."""
    times = []
    started = time.perf_counter()
    for recipe in chosen:
        begin = time.perf_counter()
        one(recipe)
        times.append(1000 * (time.perf_counter() - begin))
    return {
        "recipes": len(chosen),
        "seconds": time.perf_counter() - started,
        "median_ms": float(np.median(times)),
        "p90_ms": float(np.quantile(times, 0.9)),
    }


def main(predictor: Path, what: str) -> None:
    """See the module."""
    torch.set_num_threads(1)
    network = resnet20()
    if what == "export":
        context = calibration_context()
        chosen = recipes(network, 99, EXPORTS)

        def export_and_measure(recipe: Recipe) -> None:
            measure_latency({"one": to_onnx(apply_recipe(network, recipe, context).eval())}, 1, limit_s=0)

        print(json.dumps(timed(export_and_measure, chosen)))
        return
    pricer = Pricer(network, Predictor.from_json(predictor.read_text()), 1, calibration_context())
    chosen = recipes(network.to_meta(), int(what), RECIPES)
    gc.collect()
    gc.freeze()  # as the search does: what stands before the first price is not looked through again and again
    print(json.dumps(timed(pricer.price, chosen)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
