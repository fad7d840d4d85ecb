"""What is exported is read again and is the same network: floats within rounding, integers to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.resnet import ResNet
from techniques import export, lift, onnx_import
from techniques.apply import apply_recipe
from techniques.context import Batch, TechniqueContext
from techniques.network import Network
from techniques.pruning.structured import groups
from techniques.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLinear
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
CHANGES = ("float", "pruned", "low_rank", "resized", "int8")
CASES = [
    Case(f"{name}-{change}", build, shape, change)
    for name, (build, shape) in NETWORKS.items()
    for change in CHANGES
    if (name, change) != ("lenet", "resized")  # its size is written into it
]


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
