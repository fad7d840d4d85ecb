"""What is exported is read again and is the same network: floats within rounding, integers to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.resnet import ResNet
from techniques import export, lift, onnx_import
from techniques.apply import apply_recipe
from techniques.channels.channel_map import channel_map
from techniques.context import Batch, TechniqueContext
from techniques.low_rank.decompose import LowRank, decomposable_layers
from techniques.network import Network
from techniques.pruning.importance import class_scores
from techniques.pruning.structured import groups, offered_groups, unproven
from techniques.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLinear, without_rounding
from techniques.recipe import Recipe, Step
from tests.techniques.small_networks import BakedView, ShuffleBlock, seeded


class Mobile(nn.Module):
    """A gate, a depthwise convolution, a group norm, PReLU, a resize by two and an average pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 5, padding=2, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.gate = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.Hardsigmoid())
        self.behind = nn.Sequential(nn.Conv2d(16, 24, 1), nn.GroupNorm(4, 24), nn.PReLU(24))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x))
        x = self.behind(x * self.gate(x.mean((2, 3), keepdim=True)))
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.head(nn.functional.gelu(nn.functional.avg_pool2d(x, 3, 2, 1)).mean((2, 3)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Noise:
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return 64

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        yield Batch(torch.randn(64, *self.shape, generator=torch.Generator().manual_seed(0)))


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    change: str

    def network(self) -> Network:
        context = TechniqueContext(channel_multiple=1, calibration=_Noise(self.shape))
        network = lift.from_module(seeded(self.build()), self.shape)
        step = self._step(network, context)
        return (network if step is None else apply_recipe(network, Recipe((step,)), context)).eval()

    def _step(self, network: Network, context: TechniqueContext) -> Step | None:
        if self.change == "pruned":
            return Step("structured_pruning", {"ratios": dict.fromkeys(groups(network, context), 0.5)})
        if self.change == "low_rank":
            dense = [name for name, layer in network.layers().items() if getattr(layer, "groups", 1) == 1]
            return Step("low_rank", {"energies": dict.fromkeys(dense[:3], 0.8)})
        if self.change == "resized":
            return Step("input_resolution", {"height": self.shape[1] * 3 // 4, "width": self.shape[2] * 3 // 4})
        return Step("int8_quantization", {}) if self.change == "int8" else None


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "lenet": (BakedView, (1, 14, 14)),
    "shuffle": (ShuffleBlock, (3, 8, 8)),
    "resnet": (lambda: ResNet(8, widths=(8, 8, 16)), (1, 28, 28)),
    "mobile": (Mobile, (3, 16, 16)),
}
CHANGES = {
    "lenet": ("float", "int8"),
    "shuffle": ("float", "pruned", "resized", "int8"),
    "resnet": ("float", "pruned", "int8"),
    "mobile": ("float", "pruned", "low_rank", "resized", "int8"),
}
CASES = [Case(f"{name}-{change}", *NETWORKS[name], change) for name, changes in CHANGES.items() for change in changes]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_what_is_exported_is_read_again_as_the_same_network(case: Case, tmp_path: Path) -> None:
    network = case.network()
    images = torch.randn(4, *case.shape, generator=torch.Generator().manual_seed(1))
    export.to_pt2(network, tmp_path / "model.pt2")
    (tmp_path / "model.onnx").write_bytes(export.to_onnx(network))
    readings = {"pt2": lift.from_pt2(tmp_path / "model.pt2"), "onnx": onnx_import.from_onnx(tmp_path / "model.onnx")}
    with torch.no_grad():
        expected = network(images)
        for kind, back in readings.items():
            found = back.eval()(images)
            if case.change == "int8":
                assert torch.equal(found, expected), kind
                assert _integers(back) == _integers(network), kind
                assert export.weight_size_bytes(back) == export.weight_size_bytes(network), kind
            else:
                assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), kind


def _integers(network: Network) -> list[type[nn.Module]]:
    kinds = (ActivationQuantizer, QuantizedConv2d, QuantizedLinear)
    return [type(module) for _, module in network.module_calls() if isinstance(module, kinds)]


class Around(nn.Module):
    """One function between a convolution and a linear layer, with a layer of its own if it needs one."""

    def __init__(self, function: Callable[[Around, Tensor], Tensor], channels: int = 16, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.head, self.layer, self.function = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(channels, 5), layer, function

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self, torch.relu(self.stem(x)))
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)  # type: ignore[no-any-return]


def _assigned(net: Around, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, ::2, 1::2] = 0.5
    x[:, [1, 3]] = x[:, [5, 2]] * 2
    x[:, 3] += x[:, 2]
    return x


def _with_places(net: Around, x: Tensor) -> Tensor:
    places = torch.linspace(-1, 1, 12).view(1, 1, 1, 12).expand(x.shape[0], 1, 12, 12)
    return torch.cat([x, places], 1)


def _attention(net: Around, x: Tensor) -> Tensor:
    tokens = x.flatten(2).permute(2, 0, 1)
    return net.layer(tokens, tokens, tokens)[0].mean(0)  # type: ignore[misc, no-any-return]


def _attention_weights(net: Around, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    values, weights = net.layer(tokens, tokens, tokens)  # type: ignore[misc]
    return values.mean(1) + weights.amax((1, 2))[:, None]  # type: ignore[no-any-return]


def _transformed(net: Around, x: Tensor) -> Tensor:
    angles = net.layer(x.mean((2, 3))).view(-1, 2, 3)  # type: ignore[misc]
    grid = functional.affine_grid(angles, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


READ_BACK: dict[str, Callable[[], Around]] = {
    "local_response": lambda: Around(lambda net, x: net.layer(x), layer=nn.LocalResponseNorm(5, 0.1)),  # type: ignore[misc]
    "repeated_channels": lambda: Around(lambda net, x: x[:, :, ::2][:, [0, 0, 1, 1, *range(4, 16)]]),
    "places": lambda: Around(lambda net, x: x[:, :, [[0], [1], [5]], [0, 3, 3]]),
    "nearest_exact": lambda: Around(lambda net, x: functional.interpolate(x, (7, 19), mode="nearest-exact")),
    "area": lambda: Around(lambda net, x: functional.interpolate(x, (5, 7), mode="area")),
    "antialiased": lambda: Around(lambda net, x: functional.interpolate(x, (5, 7), mode="bicubic", antialias=True)),
    "adaptive_pool": lambda: Around(lambda net, x: functional.adaptive_avg_pool2d(x, (5, 7))),
    "assigned": lambda: Around(_assigned),
    "circular": lambda: Around(lambda net, x: functional.pad(x, (1, 2, 3, 0), mode="circular")),
    "sorted": lambda: Around(lambda net, x: x.sort(1)[0]),
    "winners": lambda: Around(lambda net, x: x * (x >= x.topk(3, 1)[0][:, -1:])),
    "deep": lambda: Around(lambda net, x: net.layer(x[:, None]).flatten(1, 2), 32, nn.Conv3d(1, 2, 3, padding=1)),  # type: ignore[misc]
    "grid": lambda: Around(_transformed, layer=nn.Linear(16, 6)),
    "places_beside": lambda: Around(_with_places, 17),
    "attention": lambda: Around(_attention, layer=nn.MultiheadAttention(16, 2)),
    "attention_weights": lambda: Around(_attention_weights, layer=nn.MultiheadAttention(16, 4, batch_first=True)),
    "recurrent": lambda: Around(
        lambda net, x: net.layer(x.mean(2).transpose(1, 2))[0][:, -1],  # type: ignore[misc]
        layer=nn.GRU(16, 8, bidirectional=True, batch_first=True),
    ),
}


@pytest.mark.parametrize("name", READ_BACK)
def test_a_file_with_a_batch_of_one_is_read_as_a_network_for_any(name: str, tmp_path: Path) -> None:
    network = lift.from_module(seeded(READ_BACK[name]()), (3, 12, 12))
    (tmp_path / "model.onnx").write_bytes(export.to_onnx(network))
    back = onnx_import.from_onnx(tmp_path / "model.onnx")
    for batch in (1, 3):
        images = torch.randn(batch, 3, 12, 12, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected, found = network(images), back(images)
        assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_layers_of_integers_are_pruned_as_the_numbers_that_they_stand_for_and_never_factorised(tmp_path: Path) -> None:
    network = Case("resnet-int8", *NETWORKS["resnet"], "int8").network()
    (tmp_path / "model.onnx").write_bytes(export.to_onnx(network))
    back = onnx_import.from_onnx(tmp_path / "model.onnx")
    context = TechniqueContext(channel_multiple=1, calibration=_Noise((1, 28, 28)))
    assert decomposable_layers(back, context) == {}
    assert LowRank().options(back, context) == []
    known, floats = channel_map(back), without_rounding(back)
    for importance in ("l2", "taylor"):
        scores = class_scores(back, known, importance, context)  # type: ignore[arg-type]
        assert np.allclose(scores, class_scores(floats, known, importance, context))  # type: ignore[arg-type]
        assert len(np.unique(scores[scores > 0])) > 20
    assert all(layer.weight.is_floating_point() for layer in floats.layers().values())
    offered = offered_groups(back, context)
    assert offered
    assert not unproven(back, context)
    step = Step("structured_pruning", {"ratios": dict.fromkeys(offered, 0.5), "importance": "taylor"})
    small = apply_recipe(back, Recipe((step,)), context)
    assert _integers(small) == _integers(back)
    assert export.weight_size_bytes(small) < 0.6 * export.weight_size_bytes(back)
