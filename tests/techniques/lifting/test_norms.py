"""Norms written by hand become modules, and compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from techniques.channel_ops import ChannelNorm
from tests.techniques.lifting.nets import Net, conv, error, lifted


def _as_in_convnext(s: Any, y: Tensor) -> Tensor:
    mean = y.mean(1, keepdim=True)
    variance = (y - mean).pow(2).mean(1, keepdim=True)
    y = (y - mean) / torch.sqrt(variance + 1e-6)
    return s.w[:, None, None] * y + s.b[:, None, None]


def _var_mean(s: Any, y: Tensor) -> Tensor:
    variance, mean = torch.var_mean(y, dim=1, keepdim=True, unbiased=False)
    return (y - mean) * torch.rsqrt(variance + 1e-5) * s.w.view(1, -1, 1, 1) + s.b.view(1, -1, 1, 1)


def _power(s: Any, y: Tensor) -> Tensor:
    y = (y - y.mean(1, keepdim=True)) / (torch.var(y, 1, unbiased=False, keepdim=True) + 1e-6) ** 0.5
    return y * s.w.view(-1, 1, 1) + s.b.view(-1, 1, 1)


def _product(s: Any, y: Tensor) -> Tensor:
    centred = y - y.mean(1, keepdim=True)
    y = centred * (1 / ((centred * centred).mean(1, True) + 1e-6).sqrt())
    return y * s.w.view(-1, 1, 1) + s.b.view(-1, 1, 1)


def _permuted(s: Any, y: Tensor) -> Tensor:
    return nn.functional.layer_norm(y.permute(0, 2, 3, 1), (8,), s.w, s.b).permute(0, 3, 1, 2)


@pytest.mark.parametrize("function", [_as_in_convnext, _var_mean, _power, _product, _permuted], ids=lambda f: f.__name__.strip("_"))
def test_layer_norms_over_channels_are_recognised(function: Callable[[Any, Tensor], Tensor]) -> None:
    module = Net(
        lambda s, x: s.head(function(s, s.a(x)).relu().mean((2, 3))),
        a=conv(3, 8),
        w=nn.Parameter(torch.rand(8) + 0.5),
        b=nn.Parameter(torch.randn(8)),
        head=nn.Linear(8, 4),
    )
    network = lifted(module)
    norm = next(m for _, m in network.module_calls() if isinstance(m, ChannelNorm))
    assert norm.weight is not None
    assert norm.bias is not None
    assert not any("mean" in str(n.target) for n in network.graph.graph.nodes if n.args and n.args[1:2] == ([1],))
    assert error(network, module) <= 1e-5
    assert network.parameter_count() == sum(p.numel() for p in module.parameters())


def test_the_unbiased_variance_is_another_norm() -> None:
    def standardised(s: Any, x: Tensor) -> Tensor:
        y = s.a(x)
        return s.head(((y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True) + 1e-6).sqrt()).mean((2, 3)))

    module = Net(standardised, a=conv(3, 8), head=nn.Linear(8, 4))
    network = lifted(module)
    assert not any(isinstance(m, ChannelNorm) for _, m in network.module_calls())
    assert error(network, module) <= 1e-5


def test_frozen_batch_norms_fold_into_their_convolutions() -> None:
    module = Net(
        lambda s, x: s.head(s.g(s.b(s.f(s.a(x)).relu())).relu().mean((2, 3))),
        a=conv(3, 8, bias=False),
        f=torchvision.ops.FrozenBatchNorm2d(8),
        b=conv(8, 8),
        g=torchvision.ops.FrozenBatchNorm2d(8),
        head=nn.Linear(8, 4),
    )
    for norm in (module.f, module.g):
        norm.weight.uniform_(0.5, 1.5)
        norm.running_mean.normal_()
    network = lifted(module)
    assert error(network, module) <= 1e-5
    assert not any(n.target in (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor) for n in network.graph.graph.nodes)
