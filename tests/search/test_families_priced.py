"""No kernel of the torchvision families is dropped or free, and each that was never measured is named."""

from __future__ import annotations

from collections import Counter

import pytest
import torchvision
from torch import nn

from hw_models.kernels import kernels
from hw_models.predictor import Predictor
from hw_models.targets import get_target
from search.describe import describe
from techniques.context import TechniqueContext
from techniques.lift import from_module
from techniques.network import Network
from techniques.quantization.static_int8 import Int8Quantization, Int8QuantizationConfig

TARGET = get_target("cpu-ort-1t")
FAMILIES = (
    "alexnet", "resnet18", "squeezenet1_1", "densenet", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0",
    "regnet_y_400mf", "convnext_tiny",
)  # fmt: skip
"""One of each kind of kernel; all families go the whole way in ``make bench-families``."""


def meta_network(name: str) -> Network:
    shallow = torchvision.models.DenseNet(16, (2, 2, 2, 2), 32)
    module: nn.Module = shallow if name == "densenet" else torchvision.models.get_model(name, weights=None)
    return from_module(module.eval(), (3, 96, 96)).to_meta()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kernel_has_a_price_and_every_unknown_one_a_name(name: str) -> None:
    network = meta_network(name)
    quantised = Int8Quantization().apply(network, Int8QuantizationConfig(), TechniqueContext())
    for priced in (network, quantised):
        graph = describe(priced)
        run = kernels(graph, TARGET)
        prediction = Predictor.uncalibrated(TARGET).predict(graph)
        covered = Counter(operator for kernel in run for operator in kernel.operators)
        vanished = {op.name for op in graph.operators if op.kind in ("identity", "quantize")}
        assert {op.name for op in graph.operators} - set(covered) <= vanished
        assert max(covered.values()) == 1
        assert all(cost.ms > 0 for cost in prediction.kernels)
        assert set(prediction.unknown) == {kernel.signature for kernel in run}
        assert not [kernel.kind for kernel in run if kernel.kind.startswith("other:")]
