"""The kernels that the rules give are those of ONNX Runtime's own optimised graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hw_models.calibration_networks import CalibrationNetwork, NetworkWriter
from hw_models.graph import Operator, OperatorGraph
from hw_models.kernels import FEATURES, Kernel, kernels
from hw_models.sampling import sample_networks
from hw_models.targets import Precision, get_target

TARGET = get_target("cpu-ort-1t")

# The blocked layout of these rules is that of vectors of 8 floats.
needs_avx2 = pytest.mark.skipif(
    "avx512f" in Path("/proc/cpuinfo").read_text() or "avx2" not in Path("/proc/cpuinfo").read_text(),
    reason="the block is 8 channels wide with AVX2 only",
)

_CONVOLUTIONS = {"Conv", "FusedConv", "QLinearConv"}


def optimized_nodes(network: CalibrationNetwork, folder: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(network.onnx_model, options, providers=["CPUExecutionProvider"])
    counted: Counter[str] = Counter()
    for node in onnx.load(options.optimized_model_filepath).graph.node:
        if node.op_type == "QLinearConv":
            counted["conv.int8"] += 1
        elif node.op_type in _CONVOLUTIONS:
            counted["conv.blocked" if node.domain.endswith("nchwc") else "conv.plain"] += 1
        elif node.op_type.startswith("Reorder"):
            counted["reorder"] += 1
        elif node.op_type in ("Add", "QLinearAdd"):
            counted["add"] += 1
        elif "MaxPool" in node.op_type:
            counted["pool"] += 1
    return counted


def predicted_nodes(network: CalibrationNetwork) -> Counter[str]:
    counted: Counter[str] = Counter()
    for kernel in kernels(network.graph, TARGET):
        if kernel.kind.startswith("conv") or kernel.kind in ("depthwise", "grouped", "first_conv"):
            counted["conv.int8" if kernel.precision == "int8" else f"conv.{kernel.layout}"] += 1
        elif kernel.kind in ("reorder", "add", "pool"):
            counted[kernel.kind] += 1
    return counted


@needs_avx2
@pytest.mark.parametrize("network", list(islice(sample_networks(("fp32", "int8"), 7), 27)), ids=lambda n: n.name)
def test_kernels_agree_with_the_optimised_graph(network: CalibrationNetwork, tmp_path: Path) -> None:
    assert predicted_nodes(network) == optimized_nodes(network, tmp_path)


def residual_block(precision: Precision) -> OperatorGraph:
    writer = NetworkWriter((1, 3, 28, 28), precision, np.random.default_rng(0))
    x = writer.conv(writer.input, 16, 3)
    y = writer.conv(x, 16, 3, activation=None)
    return writer.finish("block", writer.head(writer.add(y, x), 10)).graph


def test_residual_addition_fuses_in_float_only() -> None:
    float_kernels = {k.name: k for k in kernels(residual_block("fp32"), TARGET)}
    fused = next(k for k in float_kernels.values() if k.kind == "convkxk")
    assert [name.rstrip("0123456789") for name in fused.operators] == ["conv", "add", "relu"]
    assert not any(k.kind == "add" for k in float_kernels.values())
    assert any(k.kind == "add" and k.precision == "int8" for k in kernels(residual_block("int8"), TARGET))


def test_every_operator_is_in_exactly_one_kernel() -> None:
    for network in islice(sample_networks(("fp32",), 3), 12):
        covered = Counter(name for kernel in kernels(network.graph, TARGET) for name in kernel.operators)
        assert covered == Counter(op.name for op in network.graph.operators)


@dataclass(frozen=True)
class PaddingCase:
    inputs: int
    outputs: int
    macs: int
    layout: str


PADDING = [
    PaddingCase(16, 16, 16 * 16, "blocked"),
    PaddingCase(12, 12, 16 * 16, "blocked"),
    PaddingCase(16, 9, 16 * 16, "blocked"),
    PaddingCase(10, 16, 10 * 16, "plain"),
]


@pytest.mark.parametrize("case", PADDING, ids=lambda c: f"{c.inputs}-{c.outputs}")
def test_channels_are_padded_to_what_runs(case: PaddingCase) -> None:
    shape = (case.outputs, case.inputs, 1, 1)
    op = Operator("conv", "conv", ("input",), ((1, case.inputs, 8, 8),), (1, case.outputs, 8, 8), shape, attributes={"groups": 1})
    conv = next(k for k in kernels(OperatorGraph((op,), (1, case.inputs, 8, 8)), TARGET) if k.kind == "conv1x1")
    assert (conv.macs, conv.layout) == (64 * case.macs, case.layout)


def test_extended_level_has_no_blocked_layout() -> None:
    extended = replace(TARGET, name="extended", optimization="extended")
    assert {k.layout for k in kernels(residual_block("fp32"), extended)} == {"plain"}


def test_unknown_operators_keep_their_name() -> None:
    shape = (1, 8, 4, 4)
    op = Operator("x", "other:erfinv", ("input",), (shape,), shape)
    (kernel,) = kernels(OperatorGraph((op,), shape), TARGET)
    assert kernel.kind == "other:erfinv"
    assert kernel.bytes_in == kernel.bytes_out == 4 * 128


def test_features_are_in_the_published_order() -> None:
    kernel = Kernel("k", "linear", macs=2, loads=3, bytes_in=4, bytes_out=5, weight_bytes=7, im2col_bytes=6)
    assert dict(zip(FEATURES, kernel.features, strict=True)) == {
        "nodes": 1, "macs": 2, "loads": 3, "bytes": 9, "im2col_bytes": 6, "weight_bytes": 7,
    }  # fmt: skip
