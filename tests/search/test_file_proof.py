from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from search.evaluation import file_proof
from search.evaluation.file_layers import Compared
from search.evaluation.file_proof import FileDiffersError, prove_file
from techniques.context import TechniqueContext
from techniques.export import to_onnx
from techniques.lift import from_module
from techniques.network import Network
from techniques.quantization.layers import ActivationQuantizer, QuantizedConv2d
from techniques.quantization.static_int8 import Int8Quantization, Int8QuantizationConfig
from tests.techniques.digits import TensorSource

OFF = 0.08
"""Of one layer's biases: moves the outputs by some 11% of their spread."""
IMAGES = torch.randn(20, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def small() -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    return from_module(module.eval(), (3, 12, 12)).eval()


def quantized() -> Network:
    context = TechniqueContext(calibration=TensorSource(IMAGES))
    return Int8Quantization().apply(small(), Int8QuantizationConfig(), context)


@pytest.mark.parametrize("make", [small, quantized], ids=["float", "int8"])
@pytest.mark.parametrize("optimization", ["all", "none"])
def test_a_file_that_computes_the_same_is_proven(make: Callable[[], Network], optimization: str) -> None:
    network = make()
    proof = prove_file(network, to_onnx(network), IMAGES, optimization=optimization)
    assert proof.images == 20
    assert proof.error < (1e-5 if make is small else 0.01)
    assert (proof.values > 5000) == (make is quantized)


def changed(data: bytes, node_kind: str, index: int, which: int, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """The file with one constant input of its ``index``-th node of a kind changed."""
    model = onnx.load_from_string(data)
    node = [n for n in model.graph.node if n.op_type == node_kind][index]
    tensor = next(t for t in model.graph.initializer if t.name == node.input[which])
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))
    return model.SerializeToString()


@dataclass(frozen=True)
class Fault:
    label: str
    make: Callable[[], Network]
    damage: Callable[[bytes], bytes]
    layer: str


def one_bias(values: np.ndarray) -> np.ndarray:
    values[0] += 0.5
    return values


def larger_step(values: np.ndarray) -> np.ndarray:
    return values * np.float32(1.1)


FAULTS = [
    Fault("float, second convolution", small, lambda d: changed(d, "Conv", 1, 2, one_bias), "3"),
    Fault("float, last layer", small, lambda d: changed(d, "Gemm", 0, 2, one_bias), "7"),
    Fault("int8, second convolution", quantized, lambda d: changed(d, "Conv", 1, 2, one_bias), "3"),
    Fault("int8, first convolution", quantized, lambda d: changed(d, "Conv", 0, 2, one_bias), "0"),
]


@pytest.mark.parametrize("case", FAULTS, ids=lambda c: c.label)
def test_a_fault_is_named_with_its_layer(case: Fault) -> None:
    network = case.make()
    with pytest.raises(FileDiffersError, match=rf"layers {case.layer}\)") as raised:
        prove_file(network, case.damage(to_onnx(network)), IMAGES)
    assert raised.value.layers == (case.layer,)


def test_a_bias_that_wraps_in_the_runtime_is_named() -> None:
    """What ONNX Runtime made of nearly zero weights before their step was raised: right unoptimised, wrong optimised."""
    network = quantized()
    layer = network.layers()["3"]
    assert isinstance(layer, QuantizedConv2d)
    with torch.no_grad():
        layer.weight_scale[:4] = 1e-12
        layer.bias[:4] = 0.8  # type: ignore[index]
    data = to_onnx(network)
    prove_file(network, data, IMAGES, optimization="none")
    with pytest.raises(FileDiffersError, match=r"layers 3\)") as raised:
        prove_file(network, data, IMAGES)
    assert raised.value.layers == ("3",)


def doubled(network: Network) -> Network:
    """Each quantised value rounded by two equal quantisers, the second for the first's last user, as other tools' files have it."""
    graph = network.graph.graph
    for node, module in list(network.module_calls()):
        if isinstance(module, ActivationQuantizer):
            network.graph.add_submodule(f"{node.name}_again", ActivationQuantizer(module.scale, module.zero_point, module.unsigned))
            with graph.inserting_after(node):
                again = graph.call_module(f"{node.name}_again", node.args)
            with graph.inserting_after(again):
                mean = graph.call_function(torch.ops.aten.maximum.default, (node, again))
            node.replace_all_uses_with(mean, delete_user_cb=lambda user, mean=mean: user is not mean)
    return network.rebuilt()


def test_equal_quantizers_of_one_value_are_compared() -> None:
    once, network = quantized(), doubled(quantized())
    data = to_onnx(network)
    quantizers = [n for n in onnx.load_from_string(data).graph.node if n.op_type == "QuantizeLinear"]
    assert 2 * len(quantizers) == sum(isinstance(m, ActivationQuantizer) for _, m in network.module_calls())
    assert prove_file(network, data, IMAGES).values == 2 * prove_file(once, to_onnx(once), IMAGES).values
    with pytest.raises(FileDiffersError, match=r"layers 3\)"):
        prove_file(network, changed(data, "Conv", 1, 2, one_bias), IMAGES)


@pytest.mark.parametrize(("values", "allowed"), [(0, False), (1, True)], ids=["not compared", "compared"])
def test_values_that_could_not_be_compared_leave_less_room_to_the_outputs(
    monkeypatch: pytest.MonkeyPatch, values: int, allowed: bool
) -> None:
    network = quantized()
    data = changed(to_onnx(network), "Conv", 1, 2, lambda v: v + np.float32(OFF))
    monkeypatch.setattr(file_proof, "integer_deviations", lambda *_: Compared((), values))
    if allowed:
        assert file_proof.UNMATCHED_INTEGER_ERROR < prove_file(network, data, IMAGES).error < file_proof.INTEGER_ERROR
        return
    with pytest.raises(FileDiffersError, match="cannot be compared one by one"):
        prove_file(network, data, IMAGES)


def test_an_output_of_another_shape_or_kind_differs() -> None:
    network = small()
    with pytest.raises(FileDiffersError, match=r"\(20, 4\)"):
        prove_file(network, to_onnx(from_module(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval(), (3, 12, 12))), IMAGES)
    with pytest.raises(FileDiffersError, match="inf"):
        prove_file(network, changed(to_onnx(network), "Gemm", 0, 2, lambda v: v * np.float32("nan")), IMAGES)
    with pytest.raises(FileDiffersError, match="does not run"):
        prove_file(network, b"no file", IMAGES)
