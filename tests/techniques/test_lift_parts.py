"""Lifts that a reviewer found wrong, or that nobody could see were: norms in part, products with factors, certain outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from techniques import lift, lift_modules
from techniques.errors import UnsupportedNetworkError
from techniques.lift import from_module


class _Ends(nn.Module):
    """A convolution, something, and a classifier whose softmax is sure of everything."""

    def __init__(self, between: Callable[[Tensor], Tensor], gain: float = 1.0) -> None:
        super().__init__()
        self.conv, self.linear, self.between, self.gain = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), between, gain

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.gain * self.linear(self.between(self.conv(x)).mean((2, 3))), 1)


MEAN, VAR, BIAS = torch.randn(8), torch.rand(8) + 0.5, torch.randn(8)


@pytest.mark.parametrize(
    "norm",
    [
        lambda x: functional.batch_norm(x, MEAN, VAR, None, BIAS),
        lambda x: functional.batch_norm(x, MEAN, VAR, BIAS, None),
        lambda x: functional.group_norm(x, 2, None, BIAS),
        lambda x: functional.group_norm(x, 2, BIAS, None),
        lambda x: functional.layer_norm(x.movedim(1, -1), (8,), None, BIAS).movedim(-1, 1),
        lambda x: functional.layer_norm(x.movedim(1, -1), (8,), BIAS, None).movedim(-1, 1),
    ],
)
def test_a_norm_with_a_scale_or_a_shift_alone_is_itself(norm: Callable[[Tensor], Tensor]) -> None:
    module = _Ends(norm).eval()
    network, x = from_module(module, (3, 10, 10)), torch.randn(5, 3, 10, 10)
    with torch.no_grad():
        assert torch.allclose(network(x), module(x), atol=1e-6)


def test_a_difference_behind_a_sure_softmax_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a reviewer: outputs of 0 and 1 agree whatever came before them."""
    builders = lift_modules.BUILDERS
    norm = builders["aten.batch_norm.default"]

    def without_shift(values: dict[str, Any], tensors: dict[str, Any]) -> nn.Module | None:
        return norm(values, {**tensors, "weight": None, "bias": None})

    monkeypatch.setitem(builders, "aten.batch_norm.default", without_shift)
    torch.manual_seed(1)
    module = _Ends(lambda x: functional.batch_norm(x, MEAN, VAR, None, 0.01 * BIAS), gain=1e5).eval()
    with pytest.raises(UnsupportedNetworkError, match=r"in front of the final activation the lifted graph differs by"):
        from_module(module, (3, 10, 10))


def test_a_decomposed_group_norm_is_read() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 64, 4)).eval()
    x = torch.randn(2, 3, 10, 10)
    program = torch.export.export(module, (x,), strict=False).run_decompositions()
    with torch.no_grad():
        assert torch.allclose(lift.from_exported_program(program)(x), module(x), atol=1e-5)


def test_a_product_with_factors_stays_what_it_is() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x.mean((2, 3)), self.weight, beta=0.5, alpha=2)

    module, x = Product().eval(), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        assert torch.allclose(from_module(module, (3, 4, 4))(x), module(x), atol=1e-5)


def test_a_program_of_one_image_that_mixes_images_is_refused() -> None:
    """A batch of one hides it; so it is compared with the original image by image."""

    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x / x.abs().max()).mean((2, 3))

    program = torch.export.export(Mixing(), (torch.randn(1, 3, 4, 4),), strict=False)
    with pytest.raises(UnsupportedNetworkError, match=r"the network mixes images"):
        lift.from_exported_program(program)


def test_what_a_builder_cannot_read_is_refused_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(values: dict[str, Any], tensors: dict[str, Any]) -> nn.Module:
        raise KeyError("bias")

    monkeypatch.setitem(lift_modules.BUILDERS, "aten.conv2d.default", broken)
    with pytest.raises(UnsupportedNetworkError, match=r"node 'conv2d' \(aten.conv2d.default\).*KeyError"):
        from_module(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8))
