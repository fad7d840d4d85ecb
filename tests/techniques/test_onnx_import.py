"""ONNX files not written by torch, and what is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from techniques import export, lift, onnx_import
from techniques.errors import TechniqueError, UnsafeModelError, UnsupportedNetworkError
from tests.techniques.small_networks import ShuffleBlock, seeded

RNG = np.random.default_rng(0)


def _random(*shape: int) -> np.ndarray[Any, Any]:
    return (RNG.standard_normal(shape) * 0.2).astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray[Any, Any]],
    input_shape: list[Any],
    outputs: int = 10,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image:0", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [input_shape[0], outputs])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _keras_style(batch: Any = "N") -> onnx.ModelProto:
    """Uneven pads, batch norm behind, shapes computed in the graph, MatMul + Add, softmax."""
    weights = {
        "k1": _random(8, 3, 3, 3), "gamma": _random(8) + 1, "beta": _random(8), "mean": _random(8),
        "var": np.abs(_random(8)) + 0.5, "dw": _random(8, 1, 3, 3), "dense": _random(8 * 4 * 4, 10), "bias": _random(10),
        "zero": np.array(0, dtype=np.int64), "minus": np.array([-1], dtype=np.int64), "axes": np.array([0], dtype=np.int64),
        "low": np.array(0, dtype=np.float32), "high": np.array(6, dtype=np.float32), "two": np.array(2.0, dtype=np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image:0", "k1"], ["c1"], strides=[2, 2], pads=[0, 0, 1, 1], name="stem"),
        helper.make_node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["b1"], epsilon=1e-3),
        helper.make_node("Clip", ["b1", "low", "high"], ["r1"]),
        helper.make_node("Conv", ["r1", "dw"], ["c2"], group=8, auto_pad="SAME_UPPER"),
        helper.make_node("HardSigmoid", ["c2"], ["h"], alpha=0.2, beta=0.5),
        helper.make_node("Mul", ["h", "two"], ["m"]),
        helper.make_node("Add", ["m", "r1"], ["s"]),
        helper.make_node("MaxPool", ["s"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["p"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["p", "target"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["d"]),
        helper.make_node("Add", ["d", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return _model(nodes, weights, [batch, 3, 16, 16])


def _gemm_style() -> onnx.ModelProto:
    """transB=0, alpha, Pad, Transpose, Split, Concat, AveragePool, LeakyRelu, ReduceMean with an attribute."""
    weights = {
        "w1": _random(8, 2, 3, 3), "b1": _random(8), "w2": _random(4, 4, 1, 1), "fc": _random(8, 6), "fcb": _random(1, 6),
        "s": _random(8, 1, 1) + 1,
    }  # fmt: skip
    nodes = [
        helper.make_node("Pad", ["image:0"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="constant", value=0.0),
        helper.make_node("Conv", ["p", "w1", "b1"], ["c"]),
        helper.make_node("Mul", ["c", "s"], ["cs"]),
        helper.make_node("LeakyRelu", ["cs"], ["l"], alpha=0.1),
        helper.make_node("Split", ["l"], ["left", "right"], axis=1, split=[4, 4]),
        helper.make_node("Conv", ["right", "w2"], ["r2"]),
        helper.make_node("Concat", ["left", "r2"], ["cat"], axis=1),
        helper.make_node("AveragePool", ["cat"], ["ap"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["ap"], ["rm"], axes=[2, 3], keepdims=0),
        helper.make_node("Dropout", ["rm"], ["do"], ratio=0.3),
        helper.make_node("Gemm", ["do", "fc", "fcb"], ["probabilities"], alpha=0.5, beta=2.0),
    ]
    return _model(nodes, weights, [1, 2, 9, 9], 6, opset=10)


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], onnx.ModelProto]
    modules: set[type[nn.Module]]


CASES = [
    Case("keras_style", _keras_style, {nn.Conv2d, nn.BatchNorm2d, nn.Linear}),
    Case("keras_style_static", lambda: _keras_style(4), {nn.Conv2d, nn.BatchNorm2d, nn.Linear}),
    Case("gemm_style", _gemm_style, {nn.Conv2d, nn.Linear, nn.Dropout}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_file_not_written_by_torch_equals_onnx_runtime(case: Case, tmp_path: Path) -> None:
    model = case.build()
    onnx.checker.check_model(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    network = onnx_import.from_onnx(path)
    assert case.modules <= {type(m) for _, m in network.module_calls()}
    assert (network.input_name, network.output_name) == ("image:0", "probabilities")
    declared = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 5
    images = torch.randn(declared, *network.input_shape)
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"image:0": images.numpy()})[0]
    assert np.abs(network(images).detach().numpy() - expected).max() <= 1e-4
    for batch in (1, 2, 7):
        assert network(torch.randn(batch, *network.input_shape)).shape[0] == batch


def test_own_exports_come_back(tmp_path: Path) -> None:
    network = lift.from_module(seeded(ShuffleBlock()), (3, 8, 8))
    path = tmp_path / "own.onnx"
    path.write_bytes(export.to_onnx(network))
    back = onnx_import.from_onnx(path)
    images = torch.randn(7, 3, 8, 8)
    assert torch.allclose(back(images), network(images), atol=1e-4)
    assert {type(m).__name__ for _, m in back.module_calls()} >= {
        "ChannelSlice",
        "ChannelPermutation",
        "ChannelScale",
        "ChannelNorm",
    }


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _custom_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.evil"


def _unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type, model.graph.node[2].name = "NonMaxSuppression", "nms"


def _control_flow(model: onnx.ModelProto) -> None:
    model.graph.node[2].attribute.append(helper.make_attribute("then_branch", helper.make_graph([], "b", [], [])))


def _huge(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def _truncated(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"1234"


def _two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))


def _free_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"


@dataclass(frozen=True)
class Refusal:
    name: str
    change: Callable[[onnx.ModelProto], None]
    error: type[TechniqueError]
    said: str


REFUSALS = [
    Refusal("external_data", _external, UnsafeModelError, "external data"),
    Refusal("custom_domain", _custom_domain, UnsupportedNetworkError, "com.evil"),
    Refusal("unknown_operator", _unknown_operator, UnsupportedNetworkError, "'nms' .NonMaxSuppression"),
    Refusal("control_flow", _control_flow, UnsupportedNetworkError, "control flow"),
    Refusal("huge_tensor", _huge, UnsafeModelError, "elements"),
    Refusal("truncated_tensor", _truncated, UnsafeModelError, "k1"),
    Refusal("two_inputs", _two_inputs, UnsupportedNetworkError, "second"),
    Refusal("free_size", _free_size, UnsupportedNetworkError, "fixed channels, height and width"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda c: c.name)
def test_what_cannot_be_read_is_refused_with_the_place(case: Refusal, tmp_path: Path) -> None:
    model = _keras_style()
    case.change(model)
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(case.error, match=case.said):
        onnx_import.from_onnx(path)


def test_limits_and_garbage(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_keras_style().SerializeToString())
    for limits in (
        onnx_import.OnnxLimits(nodes=3),
        onnx_import.OnnxLimits(file_bytes=10),
        onnx_import.OnnxLimits(tensor_elements=5),
    ):
        with pytest.raises(UnsafeModelError, match="at most"):
            onnx_import.from_onnx(path, limits)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(UnsafeModelError, match="not an ONNX file"):
        onnx_import.from_onnx(path)


def test_what_a_sure_softmax_hides_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of 0 and 1 agree whatever came before them; what goes into the softmax does not."""
    model = _keras_style()
    for tensor in model.graph.initializer:
        if tensor.name in ("dense", "bias"):
            factor = {"dense": 1e4, "bias": 1e3}[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    path = tmp_path / "sure.onnx"
    onnx.save(model, path)
    assert onnx_import.from_onnx(path)(torch.randn(4, *onnx_import.from_onnx(path).input_shape)).max() == 1.0
    build = onnx_import._build

    def without_bias(read: onnx.ModelProto, *arguments: Any) -> Any:
        for tensor in read.graph.initializer:
            if tensor.name == "bias":
                tensor.CopyFrom(numpy_helper.from_array(np.zeros(10, np.float32), tensor.name))
        return build(read, *arguments)

    monkeypatch.setattr(onnx_import, "_build", without_bias)
    with pytest.raises(UnsupportedNetworkError, match=r"in front of the final activation the lifted graph differs by"):
        onnx_import.from_onnx(path)
