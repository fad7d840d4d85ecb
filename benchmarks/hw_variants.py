"""200 compressed variants of the trained ResNet-20: pruned, factored, quantised, thinner, shallower, each with its accuracy.

``python -m benchmarks.hw_variants`` writes what is missing; accuracies are those of rung 0, without any training.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.harness import ROOT
from benchmarks.hw_networks import FOLDER, TruthNetwork
from examples import fashion_mnist
from examples.resnet import ResNet
from examples.train_fashion import to_input
from paretopress.runtime.session import run_classifier
from search.describe import describe
from techniques import export, lift
from techniques.apply import compress
from techniques.context import Batch, TechniqueContext
from techniques.effort import TrainingEffort
from techniques.errors import ConfigError
from techniques.network import Network
from techniques.pruning.block_removal import removable_blocks
from techniques.pruning.structured import groups
from techniques.recipe import Recipe, Step

COUNT = 200
IMAGES = 1000
ACCURACIES = FOLDER.parent / "variants.json"


class _Calibration:
    """The first 64 training images."""

    def __init__(self) -> None:
        self._images = to_input(fashion_mnist.load().train_images[:64])

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, epoch: int, batch_size: int):  # type: ignore[no-untyped-def]
        """As `techniques.context.ImageSource`."""
        for start in range(0, len(self._images), batch_size):
            yield Batch(self._images[start : start + batch_size])


def calibration_context(channel_multiple: int = 8) -> TechniqueContext:
    """With real images, as a search has it."""
    return TechniqueContext(calibration=_Calibration(), channel_multiple=channel_multiple)


@cache
def resnet20() -> Network:
    """The trained network of the demo."""
    module = ResNet(20)
    module.load_state_dict(load_file(ROOT / "examples" / "resnet20_fashion.safetensors"))
    return lift.from_module(module.eval(), (1, 28, 28))


def random_recipe(seed: int, network: Network, channel_multiple: int) -> Recipe:
    """Some blocks removed, most groups pruned, some layers factored, every other one quantised; strength drawn per recipe."""
    generator = np.random.default_rng(seed)
    steps: list[Step] = []
    blocks = _blocks(network)
    removed = sorted(str(b) for b in generator.choice(blocks, generator.integers(0, len(blocks)), replace=False))
    if removed:
        steps.append(Step("block_removal", {"blocks": removed}))
    gone = tuple(f"{name}." for name in removed)
    strength = float(generator.uniform(0.0, 0.7))
    kept = [name for name in _groups(network, channel_multiple) if not name.startswith(gone or ("-",))]
    ratios = {name: float(generator.uniform(0, strength)) for name in kept if generator.random() < 0.8}
    if ratios:
        steps.append(Step("structured_pruning", {"ratios": ratios}))
    if generator.random() < 0.4:
        layers = [n for n in network.layers() if n.startswith("blocks") and "conv" in n and not n.startswith(gone or ("-",))]
        chosen = generator.choice(layers, min(3, len(layers)), replace=False)
        steps.append(Step("low_rank", {"energies": {str(name): float(generator.uniform(0.5, 0.9)) for name in chosen}}))
    if seed % 2:
        steps.append(Step("int8_quantization", {}))
    return Recipe(tuple(steps))


@cache
def _blocks(network: Network) -> tuple[str, ...]:
    return tuple(block.name for block in removable_blocks(network))


@cache
def _groups(network: Network, channel_multiple: int) -> tuple[str, ...]:
    """By their names; proving them takes longer than all else of a recipe."""
    return tuple(groups(network.to_meta(), TechniqueContext(channel_multiple=channel_multiple)))


def variants() -> list[TruthNetwork]:
    """All, whether written or not; half of them with channel counts as they fall."""
    return [TruthNetwork(f"variant-{i:03d}", "resnet20", "int8" if i % 2 else "fp32", i % 4 > 1) for i in range(COUNT)]


def write_variants() -> None:
    """Build, export and score what is missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    scores: dict[str, float] = json.loads(ACCURACIES.read_text()) if ACCURACIES.exists() else {}
    data = fashion_mnist.load()
    images, labels = to_input(data.train_images[-IMAGES:]).numpy(), data.train_labels[-IMAGES:]
    calibration = _Calibration()
    for index, one in enumerate(variants()):
        if one.name in scores:
            continue
        multiple = 1 if one.pruned else 8
        context = TechniqueContext(calibration=calibration, channel_multiple=multiple)
        network = _compressed(random_recipe(index, resnet20(), multiple), context)
        one.onnx_path.write_bytes(export.to_onnx(network))
        one.graph_path.write_text(describe(network).to_json())
        scores[one.name] = float((run_classifier(one.onnx_path, images).argmax(1) == labels).mean())
        ACCURACIES.write_text(json.dumps(scores))


def _compressed(recipe: Recipe, context: TechniqueContext) -> Network:
    try:
        return compress(resnet20(), recipe, context, None, TrainingEffort((0,)), None).eval()
    except ConfigError:
        # A layer that pruning left too thin to be factored.
        rest = Recipe(tuple(step for step in recipe.steps if step.technique != "low_rank"))
        return compress(resnet20(), rest, context, None, TrainingEffort((0,)), None).eval()


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_variants()
