"""What is priced of a runtime whose rules are not known: every operator once, nothing of another runtime's layouts."""

from __future__ import annotations

from collections import Counter

import pytest

from hw_models.catalogue import datasheet_targets, get_target
from hw_models.graph import Operator, OperatorGraph
from hw_models.kernels import kernels
from hw_models.predictor import Predictor
from hw_models.runtimes import kernels_on
from tests.hw_models.test_kernels import residual_block

ELSEWHERE = next(target for target in datasheet_targets() if target.runtime != "onnxruntime" and "int8" in target.precisions)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_sums_and_activations_are_computed_with_the_layer_before_them(precision: str) -> None:
    graph = residual_block(precision)  # type: ignore[arg-type]
    run = kernels_on(graph, ELSEWHERE)
    layers = [op.name for op in graph.operators if op.weight_shape and op.kind in ("conv", "linear")]
    assert [kernel.name for kernel in run if kernel.macs] == layers
    assert sum(kernel.macs for kernel in run) == graph.macs()
    assert {kernel.precision for kernel in run if kernel.macs} == {precision}
    assert not {kernel.kind for kernel in run} & {"reorder", "quantize", "dequantize", "transpose", "elementwise", "add"}
    covered = Counter(name for kernel in run for name in kernel.operators)
    assert set(covered.values()) == {1}


def test_onnx_runtime_has_rules_of_its_own() -> None:
    graph, board = residual_block("fp32"), get_target("raspberry-pi-5")
    assert board.runtime == "onnxruntime"
    assert kernels_on(graph, board) == kernels(graph, board)


def test_what_is_read_twice_is_a_kernel_of_its_own() -> None:
    shape = (1, 16, 8, 8)
    attributes = {"kernel": [3, 3], "stride": [1, 1], "groups": 1}
    conv = Operator("conv", "conv", ("input",), (shape,), shape, (16, 16, 3, 3), attributes=attributes)
    relu = Operator("relu", "relu", ("conv",), (shape,), shape)
    total = Operator("sum", "add", ("relu", "conv"), (shape, shape), shape)
    run = kernels_on(OperatorGraph((conv, relu, total), shape), ELSEWHERE)
    assert [kernel.name for kernel in run] == ["conv", "relu", "sum"]


def test_views_and_quantisers_cost_nothing_and_strange_operators_keep_their_name() -> None:
    shape = (1, 16, 8, 8)
    view = Operator("view", "reshape", ("input",), (shape,), (1, 1024))
    strange = Operator("strange", "other:erfinv", ("view",), ((1, 1024),), (1, 1024))
    run = kernels_on(OperatorGraph((view, strange), shape), ELSEWHERE)
    assert [(kernel.name, kernel.kind) for kernel in run] == [("strange", "other:erfinv")]
    assert Predictor.uncalibrated(ELSEWHERE).predict(OperatorGraph((view, strange), shape)).value_ms > 0
