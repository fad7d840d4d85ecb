"""The kernels that the rules give are those that ONNX Runtime really runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from hw_models.as_run import kernels_as_run
from hw_models.fitting import graph_of
from hw_models.graph import Operator, OperatorGraph
from hw_models.kernels import FEATURES, Kernel, kernels
from hw_models.targets import Target, get_target
from paretopress.runtime.kit.networks import KitNetwork, NetworkWriter
from paretopress.runtime.kit.profile import profile_nodes
from paretopress.runtime.kit.samples import KitSample
from paretopress.runtime.kit.sampling import sample_networks

TARGET = get_target("cpu-ort-1t")
BLOCK = TARGET.layout_block
WIDE_VECTORS = "avx512f" in Path("/proc/cpuinfo").read_text()
CASES = [(name, n) for name in ("cpu-ort-1t", "cpu-ort-1t-extended") for n in islice(sample_networks(("fp32", "int8"), 7), 30)]


def compared(run: list[Kernel]) -> Counter[tuple[object, ...]]:
    """What decides a price. Where channels turn first to last is the runtime's choice among equals, and costs little."""
    kept = [k for k in run if k.kind != "transpose" and not (k.kind == "reorder" and k.precision == "int8")]
    if not WIDE_VECTORS:
        # Sizes were looked at with AVX-512 only; with AVX2, which convolution runs in which layout.
        return Counter((k.precision, k.layout) for k in kept if k.macs and k.kind not in ("max_pool", "avg_pool", "linear"))
    return Counter((k.kind, k.precision, k.layout, k.macs, k.bytes_in, k.bytes_out) for k in kept)


@pytest.mark.skipif("avx2" not in Path("/proc/cpuinfo").read_text(), reason="the rules are those of AVX2 and AVX-512")
@pytest.mark.parametrize(("target", "network"), CASES, ids=lambda c: c if isinstance(c, str) else c.name)
def test_kernels_are_those_that_run(target: str, network: KitNetwork) -> None:
    nodes = profile_nodes(network.onnx_model, 1, get_target(target).optimization, runs=1)
    graph = graph_of(KitSample(network))
    run = [one.kernel for one in kernels_as_run(graph, nodes, get_target(target))]
    assert compared(list(kernels(graph, get_target(target)))) == compared(run)


def residual_block(precision: str) -> OperatorGraph:
    writer = NetworkWriter((1, 3, 28, 28), precision, np.random.default_rng(0))
    x = writer.conv(writer.input, 16, 3)
    y = writer.conv(x, 16, 3, activation=None)
    return graph_of(KitSample(writer.finish("block", writer.head(writer.add(y, x), 10))))


def test_residual_addition_fuses_in_float_only() -> None:
    float_kernels = kernels(residual_block("fp32"), TARGET)
    fused = next(k for k in float_kernels if "add" in [name.rstrip("0123456789") for name in k.operators])
    assert [name.rstrip("0123456789") for name in fused.operators] == ["conv", "add", "relu"]
    assert any(k.kind == "add" and k.precision == "int8" for k in kernels(residual_block("int8"), TARGET))


def test_every_operator_is_in_exactly_one_kernel() -> None:
    for network in islice(sample_networks(("fp32",), 3), 15):
        graph = graph_of(KitSample(network))
        covered = Counter(name for kernel in kernels(graph, TARGET) for name in kernel.operators)
        assert covered == Counter(op.name for op in graph.operators if op.kind != "identity")


@dataclass(frozen=True)
class PaddingCase:
    inputs: int
    outputs: int
    macs: int
    layout: str


PADDING = [
    PaddingCase(2 * BLOCK, 2 * BLOCK, 4 * BLOCK * BLOCK, "blocked"),
    PaddingCase(2 * BLOCK, BLOCK + 1, 4 * BLOCK * BLOCK, "blocked"),
    PaddingCase(2 * BLOCK - 4, 2 * BLOCK, 4 * BLOCK * BLOCK, "blocked"),
    PaddingCase(2 * BLOCK + 2, 2 * BLOCK, (2 * BLOCK + 2) * 2 * BLOCK, "plain"),
]


@pytest.mark.parametrize("case", PADDING, ids=lambda c: f"{c.inputs}-{c.outputs}")
def test_channels_are_padded_to_what_runs(case: PaddingCase) -> None:
    shape = (case.outputs, case.inputs, 1, 1)
    op = Operator("conv", "conv", ("input",), ((1, case.inputs, 8, 8),), (1, case.outputs, 8, 8), shape, attributes={"groups": 1})
    conv = next(k for k in kernels(OperatorGraph((op,), (1, case.inputs, 8, 8)), TARGET) if k.kind == "conv1x1")
    assert (conv.macs, conv.layout) == (64 * case.macs, case.layout)


def test_extended_level_has_no_blocked_layout() -> None:
    extended: Target = replace(TARGET, name="extended", optimization="extended")
    assert {k.layout for k in kernels(residual_block("fp32"), extended)} == {"plain"}


def test_unknown_operators_keep_their_name() -> None:
    shape = (1, 8, 4, 4)
    op = Operator("x", "other:erfinv", ("input",), (shape,), shape)
    (kernel,) = kernels(OperatorGraph((op,), shape), TARGET)
    assert kernel.kind == "other:erfinv"
    assert kernel.bytes_in == kernel.bytes_out == 4 * 128


def test_features_are_in_the_published_order() -> None:
    kernel = Kernel("k", "linear", macs=2, loads=3, bytes_in=4, bytes_out=5, weight_bytes=8, im2col_bytes=6, coldness=6)
    assert dict(zip(FEATURES, kernel.features, strict=True)) == {
        "calls": 1, "macs": 2, "loads": 3, "bytes": 9, "im2col_bytes": 6, "weight_bytes": 8, "cold_weight_bytes": 4,
    }  # fmt: skip
