from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from examples.resnet import ResNet
from hw_models.graph import KINDS, OperatorGraph
from hw_models.predictor import Predictor
from hw_models.targets import get_target
from search.describe import describe, network_macs
from search.runtimes.onnx_size import estimated_onnx_size_bytes
from techniques.export import to_onnx
from techniques.lift import from_module
from techniques.network import Network
from techniques.onnx_counts import count_file
from techniques.quantization.layers import ActivationQuantizer, QuantizedConv2d
from techniques.shapes import layer_macs


class Mixed(nn.Module):
    """Most kinds of operations in one small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(nn.functional.relu6(self.norm(self.stem(x))), 2)
        y = nn.functional.silu(self.wide(x)) * torch.sigmoid(self.same(x))
        x = torch.cat([x, y - torch.special.erf(x)], 1)
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest").mean((2, 3))
        return self.head(nn.functional.dropout(x, 0.5, self.training))


@pytest.fixture(scope="module")
def mixed() -> Network:
    return from_module(Mixed(), (3, 32, 32))


@pytest.fixture(scope="module")
def resnet() -> Network:
    return from_module(ResNet(20), (1, 28, 28))


def kinds(graph: OperatorGraph) -> list[str]:
    return [op.kind for op in graph.operators]


def test_shapes_are_those_of_a_run(mixed: Network) -> None:
    graph = describe(mixed, batch=3)
    seen: dict[str, tuple[int, ...]] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                seen[str(n.target) if n.op == "call_module" else n.name] = tuple(result.shape)
            return result

    Recorder(mixed.graph).run(torch.zeros(3, 3, 32, 32))
    assert {op.name: op.output_shape for op in graph.operators} == {op.name: seen[op.name] for op in graph.operators}


def test_every_operation_has_a_kind(mixed: Network) -> None:
    graph = describe(mixed)
    expected = {
        "conv",
        "batch_norm",
        "clip",
        "max_pool",
        "silu",
        "mul",
        "sigmoid",
        "concat",
        "sub",
        "resize",
        "reduce_mean",
        "linear",
    }
    assert expected <= set(kinds(graph))
    assert [k for k in kinds(graph) if k not in KINDS] == ["other:special_erf"]


def test_layers_carry_their_sizes(mixed: Network) -> None:
    layers = {op.name: op for op in describe(mixed).operators if op.weight_shape}
    assert layers["stem"].weight_shape == (8, 3, 5, 5)
    assert layers["stem"].attributes == {"kernel": [5, 5], "stride": [2, 2], "dilation": [1, 1], "groups": 1}
    assert layers["wide"].macs() == 8 * 8 * 8 * 9
    assert layers["same"].output_shape == (1, 8, 8, 8)
    assert layers["head"].macs() == 16 * 5


OTHER_CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 4, 2, 1, groups=2), nn.Flatten(1), nn.Linear(16 * 144, 2)
    ),
    "one axis": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Conv1d(8, 16, 3, 2), nn.Flatten(1), nn.Linear(16 * 17, 2)
    ),
}


@pytest.mark.parametrize("kind", OTHER_CONVOLUTIONS)
def test_every_kind_of_convolution_is_priced_as_its_file_is_counted(kind: str) -> None:
    network = from_module(OTHER_CONVOLUTIONS[kind]().eval(), (3, 8, 8))
    graph, onnx = describe(network), to_onnx(network)
    counts = count_file(onnx)
    assert graph.macs() == network_macs(network) == sum(layer_macs(network).values()) == counts.macs
    assert abs(estimated_onnx_size_bytes(graph) - len(onnx)) < 0.1 * len(onnx)
    price = Predictor.uncalibrated(get_target("cpu-ort-1t")).predict(graph)
    assert price.value_ms > 0


def test_macs_scale_with_the_batch(resnet: Network) -> None:
    assert describe(resnet, 4).macs() == 4 * network_macs(resnet)
    assert network_macs(resnet) == 31_021_952


def test_meta_and_real_networks_describe_alike(resnet: Network) -> None:
    assert describe(resnet.to_meta()).to_json() == describe(resnet).to_json()


def test_describing_changes_nothing(resnet: Network) -> None:
    before = {k: v.clone() for k, v in resnet.graph.state_dict().items()}
    describe(resnet)
    assert all(torch.equal(v, before[k]) for k, v in resnet.graph.state_dict().items())


def test_json_round_trip(mixed: Network) -> None:
    graph = describe(mixed)
    assert OperatorGraph.from_json(graph.to_json()).to_json() == graph.to_json()


@dataclass(frozen=True)
class BitsCase:
    name: str
    between: str | None
    bits: int


@pytest.mark.parametrize(
    "case",
    [BitsCase("direct", None, 8), BitsCase("pooled", "pool", 8), BitsCase("computed", "sigmoid", 32)],
    ids=lambda c: c.name,
)
def test_integers_go_on_through_what_only_moves_values(case: BitsCase) -> None:
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            if case.between == "pool":
                x = nn.functional.max_pool2d(x, 2)
            elif case.between == "sigmoid":
                x = torch.sigmoid(x)
            return self.conv(x).mean((2, 3))

    network = from_module(Quantized(), (3, 8, 8))
    graph = network.graph.graph
    image = next(n for n in graph.nodes if n.op == "placeholder")
    network.graph.add_submodule("quantizer", ActivationQuantizer(0.1, 0, unsigned=True))
    with graph.inserting_after(image):
        quantized = graph.call_module("quantizer", (image,))
    image.replace_all_uses_with(quantized, delete_user_cb=lambda user: user is not quantized)
    network.graph.conv = QuantizedConv2d.from_float(network.graph.get_submodule("conv"))  # type: ignore[arg-type]
    operators = {op.name: op for op in describe(network.rebuilt()).operators}
    assert operators["quantizer"].kind == "quantize"
    assert operators["conv"].activation_bits == case.bits
    assert operators["conv"].weight_bits == 8


def test_a_module_called_twice_is_two_operators() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x)).mean((2, 3))

    network = from_module(Twice(), (3, 8, 8))
    names = [op.name for op in describe(network).operators]
    assert len(names) == len(set(names))
    assert kinds(describe(network)).count("conv") == 2
    assert network_macs(network) == 2 * 64 * 81
