from __future__ import annotations

import collections
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from techniques.context import TechniqueContext
from techniques.errors import ConfigError, DataRequiredError
from techniques.export import to_onnx
from techniques.folding import fold_batch_norms
from techniques.network import Network
from techniques.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLinear, dequantized_weight
from techniques.quantization.ranges import Histogram, affine_parameters, choose_range
from techniques.quantization.static_int8 import Int8Quantization, Int8QuantizationConfig
from tests.techniques.digits import accuracy, context, digits, outputs, trained


def quantised(config: Int8QuantizationConfig | None = None, **changes: object) -> Network:
    return Int8Quantization().apply(trained(), config or Int8QuantizationConfig(), context(**changes))


@dataclass(frozen=True)
class Exported:
    logits: Tensor
    operators: collections.Counter[str]


def through_onnxruntime(network: Network, images: Tensor, folder: Path) -> Exported:
    """Logits at full optimisation, and the operators that the runtime really runs."""
    (folder / "model.onnx").write_bytes(to_onnx(network, dynamic_batch=True))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return Exported(torch.from_numpy(np.asarray(logits)), collections.Counter(node.op_type for node in nodes))


def test_onnxruntime_runs_every_convolution_on_integers_and_agrees(tmp_path: Path) -> None:
    network, images = quantised(), digits()[1].images
    exported = through_onnxruntime(network, images, tmp_path)
    assert exported.operators["QLinearConv"] == sum(isinstance(m, nn.Conv2d) for m in network.layers().values()) == 9
    assert exported.operators["QLinearAdd"] == 3
    assert exported.operators["QLinearGlobalAveragePool"] == 1
    assert exported.operators["Conv"] == 0
    expected = outputs(network, images)
    agreement = (exported.logits.argmax(1) == expected.argmax(1)).float().mean()
    assert agreement > 0.99
    assert float((exported.logits - expected).abs().mean()) < 0.01 * float(expected.std())


def test_accuracy_stays() -> None:
    assert accuracy(quantised()) > accuracy(trained()) - 0.015


@pytest.mark.parametrize("ranges", ["min_max", "percentile", "mse"])
def test_every_choice_of_ranges_stays_close(ranges: str) -> None:
    network = quantised(Int8QuantizationConfig(ranges=ranges))  # type: ignore[arg-type]
    images = digits()[1].images
    error = (outputs(network, images) - outputs(trained(), images)).abs().mean() / outputs(trained(), images).std()
    assert error < 0.1


def test_signed_activations_and_full_range_weights() -> None:
    network = quantised(Int8QuantizationConfig(reduce_range=False), unsigned_activations=False)
    assert accuracy(network) > accuracy(trained()) - 0.015
    largest = max(int(m.weight.abs().max()) for m in network.layers().values())
    assert largest == 127
    assert not any(m.unsigned for m in network.graph.modules() if isinstance(m, ActivationQuantizer))


def test_excluded_layers_stay_float() -> None:
    network = quantised(Int8QuantizationConfig(exclude=["stem.*", "classifier"]))
    layers = network.layers()
    assert type(layers["stem.0"]) is nn.Conv2d
    assert type(layers["classifier"]) is nn.Linear
    assert isinstance(layers["blocks.0.conv1"], QuantizedConv2d)
    assert accuracy(network) > accuracy(trained()) - 0.015


def test_named_layers_alone_are_quantised() -> None:
    network = quantised(Int8QuantizationConfig(layers=["blocks.2.conv1"]))
    assert [name for name, m in network.layers().items() if isinstance(m, QuantizedConv2d | QuantizedLinear)] == ["blocks.2.conv1"]


def test_no_quantiser_between_a_layer_and_its_relu() -> None:
    network = quantised()
    for node, module in network.module_calls():
        if isinstance(module, ActivationQuantizer):
            assert not any("relu" in str(user.target) for user in node.users)


def test_weights_are_rounded_to_the_nearest_step() -> None:
    layer = nn.Conv2d(8, 4, 3)
    result = QuantizedConv2d.from_float(layer)
    assert result.weight.dtype == torch.int8
    error = (dequantized_weight(result) - layer.weight).abs().flatten(1).amax(1)
    assert bool((error <= result.weight_scale / 2 * 1.001).all())


def test_folding_batch_norms_changes_nothing_but_their_count() -> None:
    folded, images = fold_batch_norms(trained()).rebuilt(), digits()[1].images
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.graph.modules())
    torch.testing.assert_close(outputs(folded, images), outputs(trained(), images), rtol=1e-3, atol=1e-3)


@dataclass(frozen=True)
class Range:
    label: str
    low: float
    high: float
    unsigned: bool


@pytest.mark.parametrize(
    "case",
    [
        Range("relu", 0.0, 5.1, True),
        Range("image", -0.8, 1.8, True),
        Range("signed", -0.8, 1.8, False),
        Range("constant", 0.0, 0.0, True),
    ],
    ids=lambda c: c.label,
)
def test_zero_is_exact(case: Range) -> None:
    scale, zero_point = affine_parameters(case.low, case.high, case.unsigned)
    quantizer = ActivationQuantizer(scale, zero_point, case.unsigned)
    assert float(quantizer(torch.zeros(1))) == 0.0
    x = torch.linspace(case.low, case.high, 50)
    assert float((quantizer(x) - x).abs().max()) <= scale


def test_a_percentile_cuts_an_outlier_that_min_max_keeps() -> None:
    counts = torch.zeros(100, dtype=torch.float64)
    counts[:10] = 1e6
    counts[-1] = 1
    histogram = Histogram(counts, 0.0, 100.0)
    assert choose_range(histogram, "min_max", 99.99) == (0.0, 100.0)
    assert choose_range(histogram, "percentile", 99.99)[1] == pytest.approx(10.0)


def test_data_and_layers_are_needed() -> None:
    with pytest.raises(DataRequiredError, match="calibration"):
        Int8Quantization().apply(trained(), Int8QuantizationConfig(), TechniqueContext())
    with pytest.raises(ConfigError, match="no layer is left"):
        quantised(Int8QuantizationConfig(exclude=["*"]))
