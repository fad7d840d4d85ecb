from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from examples.resnet import ResNet
from techniques import export, lift
from techniques.errors import UnsupportedNetworkError
from techniques.network import Network
from tests.techniques.small_networks import ShuffleBlock, seeded


@pytest.fixture(scope="module")
def network() -> Network:
    return lift.from_module(seeded(ResNet(8, widths=(8, 8, 16))), (1, 28, 28))


@pytest.fixture(scope="module")
def exported(network: Network) -> bytes:
    return export.to_onnx(network)


def _run(data: bytes, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def test_onnx_equals_the_network(network: Network, exported: bytes) -> None:
    images = torch.randn(1, 1, 28, 28)
    assert torch.allclose(_run(exported, images), network(images), atol=1e-4)


def test_onnx_is_stripped_and_batch_norms_are_folded(network: Network, exported: bytes) -> None:
    model = onnx.load_from_string(exported)
    onnx.checker.check_model(model)
    assert not model.metadata_props
    assert not any(n.metadata_props or n.doc_string for n in model.graph.node)
    assert not model.graph.value_info
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}
    assert [i.name for i in model.graph.input] == [network.input_name]
    assert [o.name for o in model.graph.output] == [network.output_name]
    used = {name for n in model.graph.node for name in n.input}
    assert {t.name for t in model.graph.initializer} <= used
    overhead = export.onnx_size_bytes(exported) - 4 * network.parameter_count()
    assert overhead < 60 * len(model.graph.node) + 40 * len(model.graph.initializer) + 500


def test_export_is_deterministic_and_leaves_the_network_alone(network: Network, exported: bytes) -> None:
    assert export.to_onnx(network.clone()) == exported
    assert any(isinstance(m, nn.BatchNorm2d) for _, m in network.module_calls())


def test_dynamic_batch() -> None:
    network = lift.from_module(seeded(ShuffleBlock()), (3, 8, 8))
    data = export.to_onnx(network, dynamic_batch=True)
    for batch in (1, 2, 7):
        images = torch.randn(batch, 3, 8, 8)
        assert torch.allclose(_run(data, images), network(images), atol=1e-4)


class _Quantized(nn.Module):
    """A convolution with int8 weights per channel between 8-bit activations."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randint(-127, 127, (8, in_channels, 3, 3), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(8) * 0.01 + 0.001)
        self.register_buffer("zero_point", torch.zeros(8, dtype=torch.int64))
        self.bias = nn.Parameter(torch.full((8,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ops, args = torch.ops.quantized_decomposed, (0.05, 10, 0, 255, torch.uint8)
        x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *args), *args)
        weight = ops.dequantize_per_channel(self.weight, self.scale, self.zero_point, 0, -127, 127, torch.int8)
        return torch.conv2d(x, weight, self.bias, padding=1).relu()


def _quantized_network() -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(_Quantized(3), _Quantized(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return lift.from_module(model, (3, 8, 8))


def test_integer_weights_stay_integers_and_biases_are_not_shared() -> None:
    network = _quantized_network()
    data = export.to_onnx(network)
    model = onnx.load_from_string(data)
    kinds = [t.data_type for t in model.graph.initializer if len(t.dims) == 4]
    assert kinds == [onnx.TensorProto.INT8] * 2
    operators = [n.op_type for n in model.graph.node]
    assert operators.count("QuantizeLinear") == 2
    assert operators.count("DequantizeLinear") == 4
    biases = [n.input[2] for n in model.graph.node if n.op_type == "Conv"]
    assert len(set(biases)) == 2
    images = torch.randn(1, 3, 8, 8)
    assert torch.allclose(_run(data, images), network(images), atol=1e-3)


def test_quantized_networks_survive_pt2(tmp_path) -> None:  # type: ignore[no-untyped-def]
    network = _quantized_network()
    export.to_pt2(network, tmp_path / "q.pt2")
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(lift.from_pt2(tmp_path / "q.pt2")(images), network(images))


def test_weight_size_counts_bits() -> None:
    network = lift.from_module(seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))), (3, 8, 8))
    floats = export.weight_size_bytes(network)
    assert floats == 4 * network.parameter_count() == export.weight_size_bytes(network.to_meta())
    conv = next(m for _, m in network.module_calls() if isinstance(m, nn.Conv2d))
    conv.weight_bits = 8  # type: ignore[assignment]
    assert export.weight_size_bytes(network) == floats - 3 * conv.weight.numel()


def test_meta_networks_are_refused(network: Network) -> None:
    with pytest.raises(UnsupportedNetworkError, match="meta"):
        export.to_onnx(network.to_meta())


class Sliding(nn.Module):
    """Layers on maps with attributes that are their defaults, and some that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.wide = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, 2, padding=2, dilation=2, groups=4)
        self.pool, self.head = nn.MaxPool2d(2, 1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.wide(self.plain(x))).amax((2, 3)))


def test_attributes_that_are_defaults_are_not_written() -> None:
    network = lift.from_module(seeded(Sliding()), (1, 12, 12))
    data = export.to_onnx(network)
    model, images = onnx.load_from_string(data), torch.randn(1, 1, 12, 12)
    written = [{a.name for a in node.attribute} for node in model.graph.node if node.op_type in ("Conv", "MaxPool")]
    assert written == [
        {"kernel_shape"},
        {"kernel_shape", "strides", "pads", "dilations", "group"},
        {"kernel_shape"},
    ]
    onnx.checker.check_model(model, full_check=True)
    assert torch.allclose(_run(data, images), network(images), atol=1e-5)
