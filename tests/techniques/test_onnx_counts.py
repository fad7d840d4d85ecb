from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from techniques.context import TechniqueContext
from techniques.errors import UnsupportedNetworkError
from techniques.export import to_onnx
from techniques.lift import from_module
from techniques.network import TABLE, Network
from techniques.onnx_counts import FileCounts, count_file
from techniques.onnx_import import from_onnx
from techniques.quantization.static_int8 import Int8Quantization, Int8QuantizationConfig
from tests.techniques.digits import TensorSource

SHAPE = (3, 12, 12)


class Net(nn.Module):
    def __init__(self, function: Callable[[Net, Tensor], Tensor], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def twice(net: Net, x: Tensor) -> Tensor:
    return net.head(functional.relu(net.conv(functional.relu(net.conv(x)))).mean((2, 3)))


def bounded(net: Net, x: Tensor) -> Tensor:
    y = functional.pad(net.conv(x), (1, 1, 1, 1), value=2.0).clamp(-1.5, 1.5)
    return net.head(functional.interpolate(y, size=(7, 7)).mean((2, 3)))


def around(function: Callable[[Net, Tensor], Tensor], positions: int, **modules: nn.Parameter) -> nn.Module:
    """A convolution before an operation and a linear layer behind it."""
    layers = {"conv": nn.Conv2d(3, 4, 1), "head": nn.Linear(4 * positions, 2)}
    return Net(lambda net, x: net.head(function(net, net.conv(x)).flatten(1)), **layers, **modules)


MIX = nn.Parameter(torch.ones(4, 4))


def normed(norm: nn.Module) -> nn.Module:
    """Layers behind a norm, whose sizes follow from its output."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(256, 4))


NORMED_MACS = 100 * 8 * 27 + 64 * 4 * 72 + 1024
NORMED_PARAMETERS = (8 * 27 + 8) + (4 * 72 + 4) + (1024 + 4)


@dataclass(frozen=True)
class Case:
    label: str
    make: Callable[[], nn.Module]
    macs: int
    parameters: int


CASES = [
    Case(
        "a norm is part of its convolution",
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 4)),
        100 * 8 * 27 + 3200,
        8 * 27 + 8 + 3200 + 4,
    ),
    Case(
        "groups and a stride",
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), nn.Flatten(), nn.Linear(216, 2)),
        36 * 6 * 9 + 432,
        6 * 9 + 6 + 432 + 2,
    ),
    Case(
        "a transposed convolution",
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
        144 * 3 * 4 * 4 + 8,
        3 * 4 * 4 + 4 + 8 + 2,
    ),
    Case(
        "one layer called twice is stored once, but for its bias",
        lambda: Net(twice, conv=nn.Conv2d(3, 3, 3, padding=1), head=nn.Linear(3, 2)),
        2 * 144 * 3 * 27 + 6,
        3 * 27 + 2 * 3 + 6 + 2,
    ),
    Case(
        "windows over the edge, whose divisors are a table",
        lambda: around(lambda net, x: functional.avg_pool2d(x, 5, ceil_mode=True, count_include_pad=False), 9),
        144 * 12 + 4 * 9 * 2,
        12 + 4 + 4 * 9 * 2 + 2,
    ),
    Case(
        "an antialiased resize, whose weights are tables",
        lambda: around(lambda net, x: functional.interpolate(x, scale_factor=0.6, mode="bilinear", antialias=True), 49),
        144 * 12 + 4 * 49 * 2,
        12 + 4 + 4 * 49 * 2 + 2,
    ),
    Case(
        "einsum is a product, and with one operand none",
        lambda: around(lambda net, x: torch.einsum("bchw,cd->bdhw", torch.einsum("bchw->bcwh", x), net.mix), 144, mix=MIX),
        144 * 12 + 144 * 4 * 4 + 4 * 144 * 2,
        12 + 4 + 16 + 4 * 144 * 2 + 2,
    ),
    Case("a norm over groups", lambda: normed(nn.GroupNorm(2, 8)), NORMED_MACS, NORMED_PARAMETERS + 16),
    Case("without scales", lambda: normed(nn.GroupNorm(4, 8, affine=False)), NORMED_MACS, NORMED_PARAMETERS),
    Case("a norm over each image", lambda: normed(nn.InstanceNorm2d(8, affine=True)), NORMED_MACS, NORMED_PARAMETERS + 16),
    Case("over each image, without scales", lambda: normed(nn.InstanceNorm2d(8)), NORMED_MACS, NORMED_PARAMETERS),
    Case("a norm over a layer", lambda: normed(nn.LayerNorm([8, 10, 10])), NORMED_MACS, NORMED_PARAMETERS + 1600),
    Case(
        "sizes, bounds and padding values are no parameters",
        lambda: Net(bounded, conv=nn.Conv2d(3, 4, 1), head=nn.Linear(4, 2)),
        144 * 12 + 8,
        12 + 4 + 8 + 2,
    ),
]  # fmt: skip


@functools.cache
def lifted(case: Case) -> Network:
    torch.manual_seed(0)
    module = case.make()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return from_module(module.eval(), SHAPE)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_counts_of_a_float_file(case: Case) -> None:
    assert count_file(to_onnx(lifted(case))) == FileCounts(case.macs, case.parameters)


@pytest.mark.parametrize("case", CASES[3:8], ids=lambda c: c.label)
def test_a_free_batch_counts_as_one_image(case: Case) -> None:
    assert count_file(to_onnx(lifted(case), dynamic_batch=True)) == FileCounts(case.macs, case.parameters)


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[4]], ids=lambda c: c.label)
def test_integers_count_as_the_numbers_that_they_stand_for(case: Case) -> None:
    context = TechniqueContext(calibration=TensorSource(torch.randn(8, *SHAPE)))
    quantized = Int8Quantization().apply(lifted(case), Int8QuantizationConfig(), context)
    assert count_file(to_onnx(quantized)) == FileCounts(case.macs, case.parameters)


EQUATIONS = [
    ("bij,bjk->bik", [(1, 3, 4), (1, 4, 5)], 3 * 4 * 5),
    ("...ij, ...jk -> ...ik", [(1, 2, 3, 4), (1, 2, 4, 5)], 2 * 3 * 4 * 5),
    ("...ij,...jk->...ik", [(1, 2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
    ("bi,ij,jk->bk", [(1, 3), (3, 4), (4, 5)], 3 * 4 * 5),
    ("ij->ji", [(1, 4)], 0),
]


@pytest.mark.parametrize(("equation", "shapes", "macs"), EQUATIONS, ids=[e[0] for e in EQUATIONS])
def test_einsum_counts_every_combination_of_indices(equation: str, shapes: list[tuple[int, ...]], macs: int) -> None:
    names = [f"x{i}" for i in range(len(shapes))]
    first = onnx.helper.make_tensor_value_info(names[0], onnx.TensorProto.FLOAT, shapes[0])
    rest = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in zip(names[1:], shapes[1:], strict=True)]
    node = onnx.helper.make_node("Einsum", names, ["y"], equation=equation)
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [first], [y], rest))
    assert count_file(model.SerializeToString()).macs == macs


def test_tables_of_an_imported_file_are_no_parameters(tmp_path: Path) -> None:
    """Windows over the edge and a cubic resize, as the importer writes them."""
    weights = {"w": (4, 3, 1, 1), "head": (4 * 64, 2)}
    tensors = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([1, 1, 1.7, 1.7], np.float32), "scales"))
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "w"], ["a"]),
        make("AveragePool", ["a"], ["b"], kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
        make("Resize", ["b", "", "scales"], ["c"], mode="cubic", coordinate_transformation_mode="align_corners"),
        make("Flatten", ["c"], ["d"]),
        make("MatMul", ["d", "head"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, s) for name, s in (("x", (1, *SHAPE)), ("y", None))]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    network = from_onnx(tmp_path / "model.onnx")
    assert any(name.startswith(TABLE) for name, _ in network.graph.named_buffers())
    assert count_file(to_onnx(network)) == FileCounts(144 * 12 + 2 * 4 * 64, 12 + 2 * 4 * 64)


def test_sizes_that_do_not_follow_are_named() -> None:
    model = onnx.load_from_string(to_onnx(lifted(CASES[0])))
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    node.input[0] = "nowhere"
    with pytest.raises(UnsupportedNetworkError, match="Conv"):
        count_file(model.SerializeToString())
