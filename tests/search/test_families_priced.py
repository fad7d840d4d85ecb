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
    "alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "squeezenet1_1", "densenet121", "googlenet",
    "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "efficientnet_b0", "regnet_x_400mf",
    "regnet_y_400mf", "convnext_tiny",
)  # fmt: skip


def meta_network(name: str) -> Network:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    size = 96 if name != "inception_v3" else 107
    return from_module(module.eval(), (3, size, size)).to_meta()


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
