from __future__ import annotations

import pytest
import torch
from torch import nn

from search.describe import describe
from search.runtimes.onnx_size import estimated_onnx_size_bytes
from techniques.apply import apply_recipe
from techniques.channels.groups import channel_groups
from techniques.context import TechniqueContext
from techniques.export import to_onnx
from techniques.lift import from_module
from techniques.low_rank.decompose import decomposable_layers
from techniques.network import Network
from techniques.recipe import Recipe, Step
from tests.search.golden.networks import made
from tests.techniques.digits import TensorSource

INT8 = Step("int8_quantization", {})
KINDS = ("as it is", "int8", "low rank and int8", "pruned")


def images(network: Network) -> TensorSource:
    """Random ones to calibrate on."""
    return TensorSource(torch.rand(8, *network.input_shape))


def trained(name: str) -> Network:
    """As training leaves it."""
    network = made(name)
    varied(network)
    return network


def varied(network: Network) -> None:
    """Constants that are all alike are written once, and no trained network has such."""
    for module in network.graph.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert values is not None
                values.uniform_(0.5, 1.5)


def recipe(kind: str, network: Network, context: TechniqueContext) -> Recipe:
    """Of every other layer and group, where it is not for the whole network."""
    layers = list(decomposable_layers(network, context))
    pruned = dict.fromkeys(list(channel_groups(network))[1::2], 0.5)
    steps = {
        "as it is": (),
        "int8": (INT8,),
        "low rank and int8": (Step("low_rank", {"energies": dict.fromkeys(layers[::2], 0.3)}), INT8),
        "pruned": (Step("structured_pruning", {"ratios": pruned}),),
    }
    return Recipe(steps[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["resnet_20", "mobilenet_s", "concatenating"])
def test_a_file_is_as_large_as_was_estimated(name: str, kind: str) -> None:
    network = trained(name)
    context = TechniqueContext(calibration=images(network), channel_multiple=8)
    changed = apply_recipe(network, recipe(kind, network, context), context)
    size = len(to_onnx(changed))
    assert abs(estimated_onnx_size_bytes(describe(changed)) - size) < 0.01 * size


class PreActivation(nn.Module):
    """Norms before their convolutions, which cannot be folded, and a wide head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.heads = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Linear(64, 100)
        self.norms = nn.ModuleList(nn.BatchNorm2d(64) for _ in range(4))
        self.layers = nn.ModuleList(nn.Conv2d(64, 64, 1, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(torch.relu(norm(x)))
        return self.heads(x.mean((2, 3)))


@pytest.mark.parametrize("kind", ["as it is", "int8"])
def test_norms_that_stay_and_integer_heads_are_counted(kind: str) -> None:
    network = from_module(PreActivation().eval(), (1, 8, 8))
    varied(network)
    context = TechniqueContext(calibration=images(network))
    changed = apply_recipe(network, recipe(kind, network, context), context)
    size = len(to_onnx(changed))
    assert abs(estimated_onnx_size_bytes(describe(changed)) - size) < 0.01 * size
