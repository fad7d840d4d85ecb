"""Parameters stay parameters, whatever shape they are read in; other constants are computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.techniques.lifting.nets import Net, conv, error, lifted


def _parameter(*sizes: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*sizes))


def _standardised(s: Any, x: Tensor) -> Tensor:
    weight = (s.p - s.p.mean((1, 2, 3), keepdim=True)) / s.p.std((1, 2, 3), keepdim=True)
    return s.head(functional.conv2d(functional.conv2d(s.a(x), weight, padding=1).relu(), weight, padding=1).mean((2, 3)))


def _global_response(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    norm = torch.norm(y, p=2, dim=(2, 3), keepdim=True)
    return s.head((s.p.view(1, -1, 1, 1) * (y * norm / (norm.mean(1, keepdim=True) + 1e-6)) + s.q + y).mean((2, 3)))


def _class_token(s: Any, x: Tensor) -> Tensor:
    tokens = s.a(x).flatten(2).transpose(1, 2)
    return s.head(torch.cat([s.p.expand(x.shape[0], -1, -1), tokens], 1)[:, 0] + tokens.mean(1) * s.q.reshape(-1))


def _learned_queries(s: Any, x: Tensor) -> Tensor:
    tokens = s.b(s.a(x).flatten(2).transpose(1, 2))
    return s.head((torch.softmax(s.b(s.p) @ tokens.transpose(1, 2), -1) @ tokens).mean(1))


@dataclass(frozen=True)
class Case:
    name: str
    function: Callable[[Any, Tensor], Tensor]
    parts: Callable[[], dict[str, nn.Module | nn.Parameter]]


CASES = [
    Case("bias", lambda s, x: s.head((s.a(x) + s.p[None, :, None, None]).mean((2, 3))), lambda: {"p": _parameter(8)}),
    Case(
        "two_views",
        lambda s, x: s.head(((s.a(x) + s.p.view(1, -1, 1, 1)) * s.p.reshape(8, 1, 1)).mean((2, 3))),
        lambda: {"p": _parameter(8)},
    ),
    Case(
        "scale_of_last_axis",
        lambda s, x: s.head((s.a(x).permute(0, 2, 3, 1) * s.p).permute(0, 3, 1, 2).mean((2, 3))),
        lambda: {"p": _parameter(8)},
    ),
    Case("exponent", lambda s, x: s.head((s.a(x) * s.p.exp().view(1, 8, 1, 1)).mean((2, 3))), lambda: {"p": _parameter(8)}),
    Case("standardised_weight", _standardised, lambda: {"p": _parameter(8, 8, 3, 3)}),
    Case("global_response", _global_response, lambda: {"p": _parameter(8), "q": _parameter(1, 8, 1, 1)}),
    Case("class_token", _class_token, lambda: {"p": _parameter(1, 1, 8), "q": _parameter(1, 8)}),
    Case("learned_queries", _learned_queries, lambda: {"p": _parameter(1, 3, 8), "b": nn.Linear(8, 8)}),
    Case(
        "tied_transposed",
        lambda s, x: s.head(functional.linear(s.b(s.a(x).mean((2, 3))), s.b.weight.t())),
        lambda: {"b": nn.Linear(8, 6)},
    ),
    Case(
        "position_table",
        lambda s, x: s.head((s.a(x) + s.p[(torch.arange(64) % 5).view(8, 8)].permute(2, 0, 1)).mean((2, 3))),
        lambda: {"p": _parameter(5, 8)},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_parameters_are_counted_once_and_trained(case: Case) -> None:
    module = Net(case.function, a=conv(3, 8), head=nn.Linear(8, 4), **case.parts())
    network = lifted(module)
    assert error(network, module) <= 1e-5
    assert network.parameter_count() == sum(p.numel() for p in module.parameters())
    network.train()(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in network.graph.parameters())


def test_constants_made_in_forward_are_no_parameters() -> None:
    module = Net(
        lambda s, x: s.head((s.a(x).relu() * torch.arange(8.0).view(1, 8, 1, 1) + torch.zeros(x.shape[0], 8, 1, 1)).mean((2, 3))),
        a=conv(3, 8),
        head=nn.Linear(8, 4),
    )
    network = lifted(module)
    assert error(network, module) <= 1e-5
    assert network.parameter_count() == sum(p.numel() for p in module.parameters())
    assert any(b.numel() == 8 for b in network.graph.buffers())


class _Blur(nn.Module):
    """A convolution whose weight is a buffer of another name (timm's anti-aliasing)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filt", torch.rand(8, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.filt, stride=2, groups=8)


def test_a_buffer_is_a_convolution_s_weight() -> None:
    module = Net(lambda s, x: s.head(s.b(s.a(x).relu()).relu().mean((2, 3))), a=conv(3, 8), b=_Blur(), head=nn.Linear(8, 4))
    network = lifted(module)
    assert error(network, module) <= 1e-5
    assert isinstance(network.graph.get_submodule("b"), nn.Conv2d)
