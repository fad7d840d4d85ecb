"""Parallel linear branches are one convolution after lifting, and what only looks like them is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from techniques import lift
from tests.techniques.lifting.nets import Net, conv, error, exported, lifted
from tests.techniques.small_networks import seeded


def _normed(layer: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels))


def _rep_vgg(s: Any, y: Tensor) -> Tensor:
    return s.wide(y) + s.narrow(y) + s.norm(y)


@dataclass(frozen=True)
class Case:
    name: str
    function: Callable[[Any, Tensor], Tensor]
    parts: dict[str, nn.Module] = field(default_factory=dict)
    merged: bool = True


CASES = [
    Case("rep_vgg", _rep_vgg, {"wide": _normed(conv(8, 8)), "narrow": _normed(conv(8, 8, 1)), "norm": nn.BatchNorm2d(8)}),
    Case(
        "grouped", _rep_vgg, {"wide": _normed(conv(8, 8, groups=2)), "narrow": conv(8, 8, 1, groups=2), "norm": nn.BatchNorm2d(8)}
    ),
    Case(
        "depthwise", lambda s, y: sum(b(y) for b in s.b), {"b": nn.ModuleList(_normed(conv(8, 8, k, groups=8)) for k in (3, 3, 1))}
    ),
    Case(
        "strided",
        lambda s, y: s.wide(y) + s.narrow(y),
        {"wide": _normed(conv(8, 8, stride=2)), "narrow": conv(8, 8, 1, stride=2, bias=False)},
    ),
    Case(
        "uneven", lambda s, y: s.p(y) + s.q(y), {"p": nn.Conv2d(8, 8, (3, 1), padding=(1, 0)), "q": nn.Conv2d(8, 8, 5, padding=2)}
    ),
    Case("dilated", lambda s, y: s.p(y) + s.q(y), {"p": nn.Conv2d(8, 8, 3, padding=2, dilation=2), "q": conv(8, 8, 1)}),
    Case("identity", lambda s, y: y + s.p(y), {"p": conv(8, 8)}),
    Case("other_input", lambda s, y: s.p(y) + s.q(y.relu() - 1), {"p": conv(8, 8), "q": conv(8, 8)}, merged=False),
    Case(
        "other_dilation",
        lambda s, y: s.p(y) + s.q(y),
        {"p": nn.Conv2d(8, 8, 3, padding=2, dilation=2), "q": conv(8, 8)},
        merged=False,
    ),
    Case(
        "read_elsewhere", lambda s, y: s.p(y) + (lambda z: z + z.relu())(s.q(y)), {"p": conv(8, 8), "q": conv(8, 8)}, merged=False
    ),
    Case("one_layer_twice", lambda s, y: s.p(y) + s.p(y.relu()), {"p": conv(8, 8)}, merged=False),
]


def _build(case: Case) -> Net:
    return Net(
        lambda s, x: s.head(case.function(s, s.a(x).relu()).relu().mean((2, 3))), a=conv(3, 8), head=nn.Linear(8, 4), **case.parts
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_branches_merge_exactly_or_not_at_all(case: Case) -> None:
    module = _build(case)
    network = lifted(module)
    assert error(network, module) <= 1e-5
    sums = sum(node.target is torch.ops.aten.add.Tensor for node in network.graph.graph.nodes)
    assert (sums == 0) == case.merged
    if case.merged:
        assert not any(isinstance(m, nn.BatchNorm2d) for _, m in network.module_calls())
        assert len(network.layers()) == 3


def test_programs_exported_in_training_mode_keep_their_branches() -> None:
    module = seeded(_build(CASES[0]))
    network = lift.from_exported_program(exported(module, training=True))
    assert sum(isinstance(m, nn.BatchNorm2d) for _, m in network.module_calls()) == 3
