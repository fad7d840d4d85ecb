from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paretopress.runtime.session import run_classifier
from techniques.context import TechniqueContext
from techniques.errors import UnsupportedNetworkError
from techniques.export import to_onnx
from techniques.lift import from_module
from techniques.network import Network
from techniques.quantization.static_int8 import Int8Quantization, Int8QuantizationConfig
from tests.techniques.digits import TensorSource, outputs

SHAPE = (3, 13, 13)


class Around(nn.Module):
    """A convolution before and one behind the operation, so that it lies between integers once both are quantised."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.operation, self.before, self.behind = operation, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.operation(functional.relu(self.before(x)))).flatten(1)


@dataclass(frozen=True)
class Case:
    label: str
    operation: Callable[[Tensor], Tensor]


CASES = [
    Case("divisor", lambda x: functional.avg_pool2d(x, 2, divisor_override=3)),
    Case("divisor, padded", lambda x: functional.avg_pool2d(x, 3, 2, 1, divisor_override=5)),
    Case("windows over the edge", lambda x: functional.avg_pool2d(x, 2, ceil_mode=True)),
    Case("over the edge, padding left out", lambda x: functional.avg_pool2d(x, 4, 3, 1, ceil_mode=True, count_include_pad=False)),
    Case("over the edge, divisor", lambda x: functional.avg_pool2d(x, 2, ceil_mode=True, divisor_override=3)),
    Case("antialiased by a scale", lambda x: functional.interpolate(x, scale_factor=0.6, mode="bicubic", antialias=True)),
]  # fmt: skip


def around(case: Case) -> tuple[Network, Tensor]:
    return from_module(Around(case.operation).eval(), SHAPE), torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_the_runtime_computes_what_torch_does(case: Case) -> None:
    network, images = around(case)
    found, expected = torch.from_numpy(run_classifier(to_onnx(network), images.numpy())), outputs(network, images)
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[5]], ids=lambda c: c.label)
def test_between_integers_too(case: Case) -> None:
    network, images = around(case)
    quantized = Int8Quantization().apply(network, Int8QuantizationConfig(), TechniqueContext(calibration=TensorSource(images)))
    found, expected = torch.from_numpy(run_classifier(to_onnx(quantized), images.numpy())), outputs(quantized, images)
    assert float((found - expected).abs().mean()) < 1e-3 * float(expected.std())


def test_a_mode_without_effect_keeps_the_pool_on_integers() -> None:
    network, _ = around(Case("", lambda x: functional.avg_pool2d(x, 3, 2, ceil_mode=True)))
    assert b"Mul" not in to_onnx(network)


def test_what_has_no_form_is_named_with_its_place() -> None:
    network, _ = around(Case("", lambda x: functional.adaptive_max_pool2d(x, 5)))
    with pytest.raises(UnsupportedNetworkError, match=r"adaptive_max_pool2d.*\(node adaptive_max_pool2d\)"):
        to_onnx(network)
