"""Booleans, integers, tensors made in ``forward``, regions, recurrent layers: read, priced, written, and read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search.describe import describe
from techniques import export, lift
from techniques.channel_ops import ChannelPermutation
from techniques.errors import UnsupportedNetworkError
from tests.techniques.lifting.nets import SHAPE, Net, conv, error, lifted
from tests.techniques.small_networks import seeded

Function = Callable[[Any, Tensor], Tensor]


def _masks(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    return s.head((y * ((y > 0) & (y < 1) | ~(y > -1)).float()).mean((2, 3)))


def _one_hot(s: Any, x: Tensor) -> Tensor:
    y = s.a(x).mean((2, 3))
    return s.head(functional.one_hot(y.argmax(1), 8).float() * y)


def _picked(s: Any, x: Tensor) -> Tensor:
    y = s.a(x).mean((2, 3))
    return s.head(y - y[torch.arange(x.shape[0]), y.argmax(1)][:, None])


def _coordinates(s: Any, x: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    ramp = torch.linspace(-1, 1, width).view(1, 1, 1, width).expand(batch, 1, height, width)
    return s.head(s.b(torch.cat([s.a(x), ramp], 1)).mean((2, 3)))


def _regions(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    with torch.no_grad():
        gate = y.mean((2, 3), keepdim=True)
        with torch.autocast("cpu", enabled=False):
            gate = gate * 2
    return s.head((y * gate).mean((2, 3)))


def _low_precision(s: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = s.a(x)
    return s.head(y.float().mean((2, 3)))


def _recurrent(s: Any, x: Tensor) -> Tensor:
    return s.head(s.b(s.a(x).mean(2).transpose(1, 2))[0][:, -1])


def _selected(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    return s.head(y.mean((2, 3))) + y[y > 0].mean()


@dataclass(frozen=True)
class Case:
    name: str
    function: Function
    parts: dict[str, nn.Module] = field(default_factory=dict)
    kind: type[nn.Module] | None = None


CASES = [
    Case("where", lambda s, x: s.head((lambda y: torch.where(y > 0, y, 0.1 * y))(s.a(x)).mean((2, 3)))),
    Case("masks", _masks),
    Case("one_hot", _one_hot),
    Case("picked", _picked),
    Case("index", lambda s, x: s.head(s.a(x)[:, [1, 0, 3, 2, 5, 4, 7, 6]].mean((2, 3)))),
    Case("full", lambda s, x: s.head((s.a(x) + torch.full((x.shape[0], 1, 1, 1), 2.0)).mean((2, 3)))),
    Case("coordinates", _coordinates, {"b": conv(9, 8)}),
    Case("einsum", lambda s, x: s.head(torch.einsum("bchw,bdhw->bcd", s.a(x), s.a(x)).mean(1))),
    Case("regions", _regions),
    Case("lstm", _recurrent, {"b": nn.LSTM(8, 8, batch_first=True)}),
    Case("unbind", lambda s, x: s.head(torch.cat(s.a(x).view(-1, 2, 4, 8, 8).unbind(1)[::-1], 1).mean((2, 3)))),
    Case("transposed", lambda s, x: s.head(s.b(s.a(x)).mean((2, 3))), {"b": nn.ConvTranspose2d(8, 8, 2, 2)}, nn.ConvTranspose2d),
    Case("one_dimensional", lambda s, x: s.head(s.b(s.a(x).flatten(2)).mean(2)), {"b": nn.Conv1d(8, 8, 3)}, nn.Conv1d),
    Case(
        "instance_norm",
        lambda s, x: s.head(s.b(s.a(x)).relu().mean((2, 3))),
        {"b": nn.InstanceNorm2d(8, affine=True)},
        nn.GroupNorm,
    ),
    Case("shuffle", lambda s, x: s.head(s.b(torch.channel_shuffle(s.a(x), 2)).mean((2, 3))), {"b": conv(8, 8)}, ChannelPermutation),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_lifts_prices_and_reads_back(case: Case, tmp_path: Path) -> None:
    module = Net(case.function, a=conv(3, 8), head=nn.Linear(8, 4), **case.parts)
    network = lifted(module)
    assert error(network, module) <= 1e-5
    assert case.kind is None or any(isinstance(m, case.kind) for _, m in network.module_calls())
    assert describe(network).macs() == describe(network.to_meta()).macs() > 0
    export.to_pt2(network, tmp_path / "model.pt2")
    back, images = lift.from_pt2(tmp_path / "model.pt2"), torch.randn(3, *SHAPE)
    assert torch.equal(back(images), network(images))
    assert back.parameter_count() == network.parameter_count()


def test_a_program_with_regions_is_read_from_its_archive(tmp_path: Path) -> None:
    module = seeded(Net(_regions, a=conv(3, 8), head=nn.Linear(8, 4)))
    torch.export.save(torch.export.export(module, (torch.zeros(2, *SHAPE),), strict=False), tmp_path / "model.pt2")
    assert error(lift.from_pt2(tmp_path / "model.pt2"), module) <= 1e-5


@pytest.mark.parametrize(
    ("function", "said"), [(_low_precision, "conv2d.*bfloat16"), (_selected, "node 'index'")], ids=["bfloat16", "data_dependent"]
)
def test_the_rest_is_refused_with_its_op(function: Function, said: str) -> None:
    with pytest.raises(UnsupportedNetworkError, match=said):
        lifted(Net(function, a=conv(3, 8), head=nn.Linear(8, 4)))


@dataclass(frozen=True)
class Output:
    name: str
    function: Function
    shape: tuple[int, ...]


OUTPUTS = [
    Output("classes", lambda s, x: s.a(x).mean((2, 3)), (8,)),
    Output("one_position", lambda s, x: s.a(x).mean((2, 3), keepdim=True), (8,)),
    Output("one_logit", lambda s, x: s.a(x).mean((1, 2, 3)).unsqueeze(1), (1,)),
    Output("one_number", lambda s, x: s.a(x).mean((1, 2, 3)), ()),
    Output("map", lambda s, x: s.a(x), (8, 8, 8)),
]


@pytest.mark.parametrize("case", OUTPUTS, ids=lambda c: c.name)
def test_outputs_of_any_form_are_told(case: Output) -> None:
    network = lifted(Net(case.function, a=conv(3, 8)))
    assert network.output_shape == case.shape == tuple(network(torch.zeros(2, *SHAPE)).shape[1:])
    assert network.is_classifier == (len(case.shape) < 2)
