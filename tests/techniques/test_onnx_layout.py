"""Files as other frameworks write them: channels last, names that are no Python names, several opsets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from techniques import export, lift, onnx_import
from techniques.errors import UnsupportedNetworkError
from techniques.network import Network
from tests.techniques.onnx_cases.models import f32, i64, node, rand

CONV = (node("Conv", "t w", "c"), node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "y"))
FLAT = (node("Flatten", "x", "f"), node("MatMul", "f w", "y"))


def _file(nodes: tuple[onnx.NodeProto, ...], weights: dict[str, np.ndarray], shape: tuple[int, int, int], path: Path) -> Path:  # type: ignore[type-arg]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@dataclass(frozen=True)
class Layout:
    name: str
    nodes: tuple[onnx.NodeProto, ...]
    weights: dict[str, np.ndarray]  # type: ignore[type-arg]
    written: tuple[int, int, int]
    read: tuple[int, int, int]


TRANSPOSE = node("Transpose", "x", "t", perm=[0, 3, 1, 2])
SCALED = (node("Mul", "x s", "m"), node("Sub", "m o", "n"), node("Transpose", "n", "t", perm=[0, 3, 1, 2]))
LAYOUTS = [
    Layout("transposed_first", (TRANSPOSE, *CONV), {"w": rand(5, 3, 3, 3)}, (9, 8, 3), (3, 9, 8)),
    Layout("scaled_then_transposed", (*SCALED, *CONV), {"w": rand(5, 3, 3, 3), "s": f32(0.5), "o": rand(3)}, (9, 8, 3), (3, 9, 8)),
    Layout(
        "grey_reshaped", (node("Reshape", "x r", "t"), *CONV), {"w": rand(5, 1, 3, 3), "r": i64(-1, 1, 9, 8)}, (9, 8, 1), (1, 9, 8)
    ),
    Layout("flattened", FLAT, {"w": rand(216, 4)}, (9, 8, 3), (3, 9, 8)),
    Layout("channels_first", (node("Conv", "x w", "c"), *CONV[1:]), {"w": rand(5, 9, 1, 1)}, (9, 8, 3), (9, 8, 3)),
    Layout("channels_first_flattened", FLAT, {"w": rand(216, 4)}, (3, 9, 8), (3, 9, 8)),
]


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda c: c.name)
def test_images_with_channels_last_are_taken_channels_first(case: Layout, tmp_path: Path) -> None:
    path = _file(case.nodes, case.weights, case.written, tmp_path / "m.onnx")
    network = onnx_import.from_onnx(path)
    assert network.input_shape == case.read
    turned = case.read != case.written
    assert any("(N, H, W, C)" in note for note in network.erased) == turned
    images = torch.randn(3, *case.read, generator=torch.Generator().manual_seed(1))
    as_written = (images.permute(0, 2, 3, 1) if turned else images).contiguous().numpy()
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"x": as_written})[0]
    assert np.abs(network(images).detach().numpy() - expected).max() <= 1e-5
    if case.name in ("transposed_first", "grey_reshaped"):
        assert not any("permute" in str(n.target) or "reshape" in str(n.target) for n in network.graph.graph.nodes)


def test_sizes_that_could_be_both_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"could be \(N, C, H, W\) or \(N, H, W, C\)"):
        onnx_import.from_onnx(_file(FLAT, {"w": rand(27, 4)}, (3, 3, 3), tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    "names", [("serving_default_x:0", "StatefulPartitionedCall:0"), ("1", "22"), ("a/b.c", "lambda"), ("class", "relu")]
)
def test_names_are_kept_through_every_file(names: tuple[str, str], tmp_path: Path) -> None:
    path = _file((node("Relu", "x", "t"), *CONV), {"w": rand(5, 3, 3, 3)}, (3, 9, 8), tmp_path / "m.onnx")
    model = onnx.load(path)
    for value, new, old in ((model.graph.input[0], names[0], "x"), (model.graph.output[0], names[1], "y")):
        value.name = new
        for part in model.graph.node:
            part.input[:] = [new if name == old else name for name in part.input]
            part.output[:] = [new if name == old else name for name in part.output]
    onnx.save(model, path)
    network = onnx_import.from_onnx(path)
    export.to_pt2(network, tmp_path / "m.pt2")
    (tmp_path / "own.onnx").write_bytes(export.to_onnx(network))
    again = onnx_import.from_onnx(tmp_path / "own.onnx")
    images = torch.randn(2, 3, 9, 8)
    for found in (network, lift.from_pt2(tmp_path / "m.pt2"), again):
        assert (found.input_name, found.output_name) == names
        assert torch.allclose(found(images), network(images), atol=1e-5)


class _Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.silu(self.norm(self.conv(x)))
        left, right = x.chunk(2, 1)
        x = torch.cat([left * right.sigmoid(), right], 1)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_what_torch_itself_writes_is_read(opset: int, tmp_path: Path) -> None:
    module, images = _Small().eval(), torch.randn(2, 3, 9, 8)
    program = torch.onnx.export(module, (images[:1],), dynamo=True, opset_version=opset, verbose=False)
    assert program is not None
    (tmp_path / "m.onnx").write_bytes(program.model_proto.SerializeToString())
    network: Network = onnx_import.from_onnx(tmp_path / "m.onnx")
    assert torch.allclose(network(images), module(images), atol=1e-5)
