"""Programs that write in place, exported in either mode: exact, or refused with the op and its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from techniques import lift
from techniques.errors import UnsupportedNetworkError
from tests.techniques.lifting.nets import Net, between, conv, error, exported
from tests.techniques.small_networks import seeded


def _fill_slice(y: Tensor) -> Tensor:
    y = y * 1.0
    y[:, :4] = 0
    return y


def _read_view_after(y: Tensor) -> Tensor:
    y = y * 1.0
    view = y[:, 2:]
    y.mul_(2)
    return torch.cat([y, view], 1)[:, 3:11]


def _clone_before(y: Tensor) -> Tensor:
    copy = y.clone()
    copy.relu_()
    return y + copy


def _through_reshape(y: Tensor) -> Tensor:
    y = y * 1.0
    y.reshape(y.shape[0], 8, -1).mul_(2)
    return y


def _copy_made_by_reshape(y: Tensor) -> Tensor:
    y = y * 1.0
    flat = y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, 8)
    flat.mul_(2)
    return y + flat.mean((1, 2))[:, None, None, None]


def _two_views_deep(y: Tensor) -> Tensor:
    y = y * 1.0
    inner = y[:, :, 1:][:, :, :, 1:]
    inner.mul_(3)
    return y * 2 + functional.pad(inner, (1, 0, 1, 0))


def _temporal_shift(y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    out[:, :2, :, :-1] = y[:, :2, :, 1:]
    out[:, 2:4, :, 1:] = y[:, 2:4, :, :-1]
    out[:, 4:] = y[:, 4:]
    return out


def _every_second(y: Tensor) -> Tensor:
    y = y * 1.0
    y[:, ::2] = y[:, 1::2]
    return y


def _one_channel_into_another(y: Tensor) -> Tensor:
    y = y * 1.0
    y[:, 0] += y[:, 1]
    y[:, 1] -= y[:, 0]
    return y


def _transposed(y: Tensor) -> Tensor:
    y = y * 1.0
    y.permute(0, 2, 3, 1)[:, 0].add_(1)
    return y


def _by_mask(y: Tensor) -> Tensor:
    y = y * 1.0
    y[y < 0] = 0
    return y


@dataclass(frozen=True)
class Case:
    function: Callable[[Tensor], Tensor]
    training: bool


def _part_in_place(y: Tensor) -> Tensor:
    y = y * 2
    y[:, :2].mul_(3)
    return y


FUNCTIONS = (
    _fill_slice, _part_in_place, _read_view_after, _clone_before, _through_reshape, _copy_made_by_reshape, _two_views_deep,
    _temporal_shift,
    _every_second, _one_channel_into_another, _transposed, _by_mask,
)  # fmt: skip
CASES = [Case(f, training) for f in FUNCTIONS for training in (True, False) if training or f in (_fill_slice, _clone_before)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.function.__name__.strip('_')}-{'train' if c.training else 'eval'}")
def test_writes_in_place_are_exact(case: Case) -> None:
    module = between(case.function)
    network = lift.from_exported_program(exported(seeded(module), case.training))
    assert error(network, module) <= 1e-5


def _tied_weight() -> nn.Module:
    net = between(lambda y: y)
    net.b, net.c = conv(8, 8), conv(8, 8)
    net.c.weight = net.b.weight
    net.function = lambda s, x: s.head(s.norm(s.c(s.b(s.a(x)).relu())).mean((2, 3)))
    return net


def _tied_norms() -> nn.Module:
    net = between(lambda y: y)
    net.b, net.other = conv(8, 8), nn.BatchNorm2d(8)
    net.other.weight, net.other.bias = net.norm.weight, net.norm.bias
    net.function = lambda s, x: s.head(s.other(s.b(s.norm(s.a(x)))).mean((2, 3)))
    return net


def _one_norm_twice() -> nn.Module:
    net = between(lambda y: y)
    net.b = conv(8, 8)
    net.function = lambda s, x: s.head(s.norm(s.b(s.norm(s.a(x)))).mean((2, 3)))
    return net


@pytest.mark.parametrize("build", [_tied_weight, _tied_norms, _one_norm_twice], ids=lambda b: b.__name__.strip("_"))
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_shared_tensors_are_shared_and_nothing_else_is(build: Callable[[], nn.Module], training: bool) -> None:
    module = seeded(build())
    statistics = {name: value.clone() for name, value in module.named_buffers()}
    network = lift.from_exported_program(exported(module, training))
    module.load_state_dict(statistics, strict=False)
    assert error(network, module) <= 1e-5
    assert network.parameter_count() == sum(p.numel() for p in module.parameters())


def test_lifting_in_training_mode_leaves_the_statistics_alone() -> None:
    program = exported(seeded(between(lambda y: functional.dropout(y, 0.3))), training=True)
    before = {name: value.clone() for name, value in program.state_dict.items()}
    lift.from_exported_program(program)
    assert all(torch.equal(program.state_dict[name], value) for name, value in before.items())


def test_dropout_that_has_no_flag_is_told() -> None:
    program = exported(seeded(between(lambda y: functional.dropout(y, 0.3))), training=False)
    assert any("drops in evaluation too" in note for note in lift.from_exported_program(program).erased)


class _MovingState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((2, 3))
        self.mean.mul_(0.9).add_(y.mean(0), alpha=0.1)
        return y - self.mean


class _Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x).mean((2, 3))


def test_a_counter_that_nothing_reads_is_no_hindrance() -> None:
    module = seeded(_Counter())
    assert error(lift.from_exported_program(exported(module, training=False)), module) <= 1e-5


@dataclass(frozen=True)
class Refusal:
    name: str
    module: nn.Module
    said: str


REFUSALS = [
    Refusal("state", _MovingState(), r"mul_.*the network's own 'mean'"),
    Refusal("random", between(lambda y: y * torch.bernoulli(torch.full((y.shape[0], 1, 1, 1), 0.5))), "bernoulli.*random numbers"),
    Refusal("through_expand", between(lambda y: (y * 1).expand(y.shape).mul_(2)), "expand.*in place"),
    Refusal(
        "norm_of_the_batch",
        Net(lambda s, x: s.n(x).mean((2, 3)), n=nn.BatchNorm2d(3, track_running_stats=False)),
        "without running",
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda c: c.name)
def test_what_is_not_exact_is_refused_with_the_op(case: Refusal) -> None:
    with pytest.raises(UnsupportedNetworkError, match=case.said):
        lift.from_exported_program(exported(case.module, training=True))
