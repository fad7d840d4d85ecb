from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from paretopress.runtime.session import run_classifier
from techniques.context import TechniqueContext
from techniques.errors import ConfigError, DataRequiredError, TechniqueError
from techniques.export import to_onnx
from techniques.folding import fold_batch_norms
from techniques.lift import from_module
from techniques.network import Network
from techniques.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLinear, dequantized_weight
from techniques.quantization.ranges import Histogram, affine_parameters, choose_range
from techniques.quantization.static_int8 import Int8Quantization, Int8QuantizationConfig
from techniques.quantization.weights import weight_scales
from tests.techniques.digits import TensorSource, accuracy, context, digits, outputs, trained


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


@pytest.mark.parametrize("ranges", ["min_max", "percentile", "mse", "auto"])
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


@dataclass(frozen=True)
class Between:
    label: str
    layer: Callable[[], nn.Module]
    exclude: tuple[str, ...]


BETWEEN = [
    Between("an excluded convolution", lambda: nn.Conv2d(8, 8, 1), ("2",)),
    Between("a transposed convolution", lambda: nn.ConvTranspose2d(8, 8, 2, 2), ()),
]


@pytest.mark.parametrize("case", BETWEEN, ids=lambda c: c.label)
def test_a_float_layer_between_integers_stays_float_in_the_runtime(case: Between) -> None:
    """ONNX Runtime quantises weights between DequantizeLinear and QuantizeLinear by itself, and saturates."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), case.layer(), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    images = torch.randn(16, 1, 12, 12)
    source = TechniqueContext(calibration=TensorSource(images))
    config = Int8QuantizationConfig(exclude=list(case.exclude))
    network = Int8Quantization().apply(from_module(module.eval(), (1, 12, 12)), config, source)
    expected, found = outputs(network, images), torch.from_numpy(run_classifier(to_onnx(network), images.numpy()))
    assert float((found - expected).abs().mean()) < 2e-4 * float(expected.std())


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


@dataclass(frozen=True)
class Extreme:
    """Channels 0 to 3 of the middle layer get these; the runtime's integers must hold them."""

    label: str
    weight: float
    bias: float
    image_scale: float = 1.0


EXTREMES = [
    Extreme("nearly no weights", 1e-9, 0.8),
    Extreme("no weights", 0.0, 0.8),
    Extreme("weights below float32's normal numbers", 1e-42, 0.8),
    Extreme("nearly no input", 0.1, 0.8, 1e-12),
    Extreme("a dead channel", 0.0, 0.0),
    Extreme("a huge bias", 0.1, -3e4),
]


@pytest.mark.parametrize("case", EXTREMES, ids=lambda c: c.label)
def test_every_bias_stays_within_the_runtimes_integers(case: Extreme) -> None:
    torch.manual_seed(0)
    middle = nn.Conv2d(8, 8, 3)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=case.image_scale == 1),
        nn.ReLU(),
        middle,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    with torch.no_grad():
        middle.weight[:4] = case.weight
        middle.bias[:4] = case.bias  # type: ignore[index]
    images = torch.randn(64, 1, 12, 12) * case.image_scale
    lifted = from_module(network.eval(), (1, 12, 12))
    quantized = Int8Quantization().apply(lifted, Int8QuantizationConfig(), TechniqueContext(calibration=TensorSource(images)))
    expected = outputs(quantized, images)
    found = torch.from_numpy(run_classifier(to_onnx(quantized), images.numpy()))
    assert float((found - expected).abs().max()) < 0.01 * float(expected.abs().max())
    assert float((expected - outputs(lifted, images)).abs().max()) < 0.05 * float(expected.abs().max())


@dataclass(frozen=True)
class Worst:
    """Layers whose products would saturate in 16 bits, were their weights not kept small."""

    label: str
    layer: nn.Conv2d
    full: bool


WORST = [
    Worst("dense", nn.Conv2d(16, 16, 3), False),
    Worst("odd number of channels", nn.Conv2d(7, 8, 3), False),
    Worst("depthwise, which adds in 32 bits", nn.Conv2d(16, 16, 3, groups=16), True),
]


@pytest.mark.parametrize("case", WORST, ids=lambda c: c.label)
def test_products_of_reduced_weights_never_saturate(case: Worst) -> None:
    nn.init.ones_(case.layer.weight)
    channels = case.layer.in_channels
    images = torch.rand(8, channels, 9, 9).mul(4).clamp(0, 1)
    network = from_module(
        nn.Sequential(case.layer, nn.Conv2d(case.layer.out_channels, 2, 1), nn.Flatten()).eval(), (channels, 9, 9)
    )
    config = Int8QuantizationConfig(reduce_range=True, ranges="min_max")
    quantized = Int8Quantization().apply(network, config, TechniqueContext(calibration=TensorSource(images)))
    first = next(m for m in quantized.layers().values())
    assert (int(first.weight.max()) == 127) == case.full
    expected = outputs(quantized, images)
    found = torch.from_numpy(run_classifier(to_onnx(quantized), images.numpy()))
    assert float((found - expected).abs().max()) < 0.01 * float(expected.abs().max())


def test_reduced_weights_keep_eight_bits_beside_small_or_opposite_neighbours() -> None:
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0], [1, -1, 1, -1], [1, 0.5, 0, 0]]))
    steps = weight_scales(layer, reduced=True, input_scale=1.0) * 127
    torch.testing.assert_close(steps, torch.tensor([2.0, 1.0, 1.0, 1.5]))
    torch.testing.assert_close(weight_scales(layer, reduced=False, input_scale=1.0) * 127, torch.ones(4))


def test_the_target_decides_whether_weights_are_reduced() -> None:
    layer = nn.Linear(8, 4)
    nn.init.ones_(layer.weight)
    network = from_module(nn.Sequential(nn.Flatten(), layer).eval(), (2, 2, 2))
    for needed in (True, False):
        facts = TechniqueContext(calibration=TensorSource(torch.rand(4, 2, 2, 2)), reduced_weight_range=needed)
        for config, reduced in ((Int8QuantizationConfig(), needed), (Int8QuantizationConfig(reduce_range=not needed), not needed)):
            quantized = next(iter(Int8Quantization().apply(network, config, facts).layers().values()))
            assert int(quantized.weight.max()) == (64 if reduced else 127)


def test_auto_takes_the_range_that_changes_the_outputs_least() -> None:
    """A few bright pixels carry the answer: a percentile would cut them."""
    images = torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.01
    images[:, 0, 0, 0] = torch.linspace(1, 9, 64)
    network = from_module(nn.Sequential(nn.Flatten(), nn.Linear(1024, 4)).eval(), (1, 32, 32))
    source = TechniqueContext(calibration=TensorSource(images))
    scales = {}
    for ranges in ("auto", "min_max", "percentile"):
        result = Int8Quantization().apply(network, Int8QuantizationConfig(ranges=ranges, percentile=99.0), source)  # type: ignore[arg-type]
        scales[ranges] = next(m.scale for m in result.graph.modules() if isinstance(m, ActivationQuantizer))
    assert scales["auto"] == scales["min_max"] > 10 * scales["percentile"]


def test_biases_take_back_what_rounding_shifts() -> None:
    images = digits()[1].images
    expected = outputs(trained(), images).mean(0)
    shift = {
        correct: float((outputs(quantised(Int8QuantizationConfig(correct_bias=correct)), images).mean(0) - expected).abs().mean())
        for correct in (True, False)
    }
    assert shift[True] < 0.7 * shift[False]


def test_biases_of_linears_on_maps_with_the_channels_last_are_corrected_per_output() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.head = nn.Linear(3, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            value: torch.Tensor = self.head(torch.relu(self.up(x.permute(0, 2, 3, 1))).mean((1, 2)))
            return value

    network = from_module(Last().eval(), (3, 8, 8))
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = Int8Quantization().apply(network, Int8QuantizationConfig(), TechniqueContext(calibration=TensorSource(images)))
    moved = result.layers()["up"].bias - network.layers()["up"].bias  # type: ignore[operator]
    assert 0 < float(moved.detach().abs().max()) < 0.05
    torch.testing.assert_close(result(images), network(images), atol=0.02, rtol=0)


def test_values_that_are_no_numbers_are_named() -> None:
    network = trained().clone()
    with torch.no_grad():
        network.layers()["blocks.1.conv1"].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(TechniqueError, match=r"node relu_3 yields NaN"):
        Int8Quantization().apply(network, Int8QuantizationConfig(), context())


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


@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize("zero_point", [0, 37, 127])
@pytest.mark.parametrize("scale", [1e-4, 0.0171, 0.1, 3.0])
def test_values_are_rounded_as_the_exported_operators_do(scale: float, zero_point: int, unsigned: bool) -> None:
    quantizer = ActivationQuantizer(scale, zero_point, unsigned)
    ties = (torch.arange(-600, 600) + 0.5) * quantizer.scale
    x = torch.cat([torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 100 * scale, ties, torch.tensor([-1e9, 1e9])])
    low, high, dtype = (0, 255, torch.uint8) if unsigned else (-128, 127, torch.int8)
    ops, args = torch.ops.quantized_decomposed, (quantizer.scale, zero_point, low, high, dtype)
    given = x.clone()
    assert torch.equal(quantizer(x), ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *args), *args))
    assert torch.equal(x, given)


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
