"""Channels without effect can go without effect, whichever way they take; what cannot go says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from techniques.channels.groups import channel_groups
from techniques.context import TechniqueContext
from techniques.lift import from_module
from techniques.network import Network
from techniques.pruning.structured import StructuredPruning, StructuredPruningConfig, groups, left_alone, offered_groups, unproven

FREE = TechniqueContext(channel_multiple=1)


class Net(nn.Module):
    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = forward
        for name, module in modules.items():
            setattr(self, name, module)
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, **more: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Dead:
    """A network whose layer ``a`` has every second channel dead; half of ``a`` is pruned."""

    label: str
    forward: Callable[[Net, Tensor], Tensor]
    modules: Callable[[], dict[str, nn.Module]]


def attended(n: Net, x: Tensor) -> Tensor:
    y = functional.relu(n.a(x))
    return n.h((y * torch.sigmoid(n.g(torch.cat((y.mean(1, keepdim=True), y.amax(1, keepdim=True)), 1)))).mean((2, 3)))


def channel_attended(n: Net, x: Tensor) -> Tensor:
    y = functional.relu(n.a(x))
    return n.h((y * torch.sigmoid(n.g(y.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1))).mean((2, 3)))


def normed(n: Net, x: Tensor) -> Tensor:
    return n.h(n.g(n.a(x).permute(0, 2, 3, 1)).mean((1, 2)))


def pyramid(n: Net, x: Tensor) -> Tensor:
    y = n.a(x)
    return n.h(torch.cat([functional.adaptive_avg_pool2d(y, k).flatten(1) for k in (1, 2)], 1))


DEAD = (
    Dead("nhwc flatten", lambda n, x: n.h(n.a(x).permute(0, 2, 3, 1).flatten(1)), lambda: {"h": nn.Linear(512, 10)}),
    Dead("tokens", lambda n, x: n.h(n.a(x).flatten(2).transpose(1, 2).reshape(x.shape[0], -1)), lambda: {"h": nn.Linear(512, 10)}),
    Dead("pyramid", pyramid, lambda: {"h": nn.Linear(40, 10)}),
    Dead("flip", lambda n, x: n.h(n.a(x).flip(1).mean((2, 3))), lambda: {"h": nn.Linear(8, 10)}),
    Dead("roll", lambda n, x: n.h(n.a(x).roll(3, 1).mean((2, 3))), lambda: {"h": nn.Linear(8, 10)}),
    Dead(
        "strided", lambda n, x: n.h(torch.cat((n.a(x)[:, 1::2], n.a(x)[:, ::2]), 1).mean((2, 3))), lambda: {"h": nn.Linear(8, 10)}
    ),
    Dead("padded", lambda n, x: n.h(functional.pad(n.a(x), (0, 0, 0, 0, 4, 2)).mean((2, 3))), lambda: {"h": nn.Linear(14, 10)}),
    Dead(
        "where", lambda n, x: n.h((lambda y: torch.where(y > 0, y, 0.1 * y))(n.a(x)).mean((2, 3))), lambda: {"h": nn.Linear(8, 10)}
    ),
    Dead(
        "learned bias",
        lambda n, x: n.h(functional.relu(n.a(x) + n.p[None, :, None, None]).mean((2, 3))),
        lambda: {"p": nn.Parameter(torch.randn(8)), "h": nn.Linear(8, 10)},  # type: ignore[dict-item]
    ),
    Dead("spatial attention", attended, lambda: {"g": conv(2, 1), "h": nn.Linear(8, 10)}),
    Dead("channel attention", channel_attended, lambda: {"g": nn.Conv1d(1, 1, 3, padding=1), "h": nn.Linear(8, 10)}),
    Dead("layer norm", normed, lambda: {"g": nn.LayerNorm(8), "h": nn.Linear(8, 10)}),
    Dead("group norm", lambda n, x: n.h(n.g(n.a(x)).mean((2, 3))), lambda: {"g": nn.GroupNorm(2, 8), "h": nn.Linear(8, 10)}),
    Dead(
        "instance norm",
        lambda n, x: n.h(n.g(n.a(x)).square().mean((2, 3))),
        lambda: {"g": nn.GroupNorm(8, 8), "h": nn.Linear(8, 10)},
    ),
    Dead("conv1d head", lambda n, x: n.h(n.g(n.a(x).flatten(2)).mean(2)), lambda: {"g": nn.Conv1d(8, 6, 1), "h": nn.Linear(6, 10)}),
    Dead("unfold", lambda n, x: n.h(functional.unfold(n.a(x), 3).mean(2)), lambda: {"h": nn.Linear(72, 10)}),
    Dead(
        "multiplied",
        lambda n, x: n.h(n.g(n.a(x)).mean((2, 3))),
        lambda: {"g": nn.Conv2d(8, 16, 3, groups=8, bias=False), "h": nn.Linear(16, 10)},
    ),
)


def pruned(network: Network, group: str, ratio: float = 0.5) -> Network:
    return StructuredPruning().apply(network, StructuredPruningConfig({group: ratio}), FREE)


@pytest.mark.parametrize("case", DEAD, ids=lambda c: c.label)
def test_dead_channels_go_without_effect(case: Dead) -> None:
    net = Net(case.forward, a=conv(1, 8), **case.modules()).eval()
    dead = [0, 2, 5, 7] if case.label != "group norm" else [0, 2, 4, 6]
    with torch.no_grad():
        net.a.weight[dead] = 0
        net.a.bias[dead] = 0
        if hasattr(net, "p"):
            net.p[dead] = 0
        if isinstance(getattr(net, "g", None), nn.GroupNorm | nn.LayerNorm):
            net.g.weight[dead] = 0
    network = from_module(net, (1, 8, 8))
    images = torch.randn(4, 1, 8, 8)
    smaller = pruned(network, "a")
    assert smaller.graph.get_submodule("a").weight.shape[0] == 4
    torch.testing.assert_close(smaller(images), network(images), rtol=1e-4, atol=1e-5)


def test_a_shortcut_padded_with_channels_loses_the_same_channels_on_both_sides() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.h((n.b(y) + functional.pad(y, (0, 0, 0, 0, 8, 8))).mean((2, 3)))

    net = Net(forward, a=conv(3, 16), b=conv(16, 32), h=nn.Linear(32, 10)).eval()
    smaller = pruned(from_module(net, (3, 8, 8)), "a", 0.25)
    assert (smaller.layers()["a"].weight.shape[0], smaller.layers()["b"].weight.shape[0]) == (12, 28)


def test_halves_that_meet_again_lose_the_same_positions() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        left, right = n.a(x).chunk(2, 1)
        return n.h((left * torch.sigmoid(right)).mean((2, 3)))

    net = Net(forward, a=conv(1, 16), h=nn.Linear(8, 10)).eval()
    with torch.no_grad():
        net.a.bias[:] = torch.arange(16)
    kept = pruned(from_module(net, (1, 8, 8)), "a").graph.get_submodule("a").bias.tolist()
    assert [k - 8 for k in kept if k >= 8] == [k for k in kept if k < 8]
    assert len(kept) == 8


@pytest.mark.parametrize("meet", [torch.max, torch.maximum, torch.min], ids=["max", "maximum", "min"])
def test_the_larger_of_two_halves_is_taken_position_by_position(meet: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = Net(lambda n, x: n.h(meet(*n.a(x).chunk(2, 1)).mean((2, 3))), a=conv(1, 16), h=nn.Linear(8, 10)).eval()
    smaller = pruned(from_module(net, (1, 8, 8)), "a")
    assert smaller.layers()["a"].weight.shape[0] == 8
    assert unproven(from_module(net, (1, 8, 8)), FREE) == {}


INDICES: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "buffer": lambda n, x: n.a(x).index_select(1, n.i),
    "list": lambda n, x: n.a(x)[:, [0, 3, 5, 7, 1, 6]],
    "mask": lambda n, x: n.a(x)[:, n.m],
    "gathered": lambda n, x: n.a(x).gather(1, n.i.view(1, 6, 1, 1).expand(x.shape[0], 6, 8, 8)),
    "image": lambda n, x: n.a(x[:, [2, 1, 0]])[:, :6],
}


@pytest.mark.parametrize("kind", INDICES)
def test_shapes_are_priced_with_the_channels_that_indices_pick(kind: str) -> None:
    net = Net(
        lambda n, x: n.h(functional.relu(n.c(INDICES[kind](n, x))).mean((2, 3))), a=conv(3, 8), c=conv(6, 12), h=nn.Linear(12, 10)
    )
    net.register_buffer("i", torch.tensor([0, 3, 5, 7, 1, 6]))
    net.register_buffer("m", torch.arange(8) % 4 != 2)
    network = from_module(net.eval(), (3, 8, 8))
    offered = offered_groups(network, FREE)
    config = StructuredPruningConfig(dict.fromkeys(offered, 0.5))
    found = [StructuredPruning().apply(n, config, FREE) for n in (network, network.to_meta())]
    shapes = [{name: tuple(p.shape) for name, p in n.graph.named_parameters()} for n in found]
    assert shapes[0] == shapes[1]
    assert "c" in offered
    assert found[0](torch.randn(3, 3, 8, 8)).shape == (3, 10)


def unpooled(n: Net, x: Tensor) -> Tensor:
    pooled, indices = functional.max_pool2d(n.a(x), 2, return_indices=True)
    return n.h(functional.max_unpool2d(n.c(pooled), indices, 2).mean((2, 3)))


def viewed(n: Net, x: Tensor) -> Tensor:
    return n.h(functional.relu(n.c((n.p @ x.flatten(2)).view_as(n.a(x)))).mean((2, 3)))


@pytest.mark.parametrize("forward", [unpooled, viewed])
def test_a_place_that_cannot_be_followed_leaves_the_others(forward: Callable[[Net, Tensor], Tensor]) -> None:
    net = Net(forward, a=conv(8, 8), c=conv(8, 8), p=nn.Parameter(torch.randn(8, 8)), h=nn.Linear(8, 10)).eval()
    network = from_module(net, (8, 8, 8))
    assert {*offered_groups(network, FREE), *left_alone(network, FREE)} >= {"c"}


def test_no_part_of_a_split_loses_all_its_channels() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        p = n.a(x).split(16, 1)
        first = n.b(p[0])
        return n.h(torch.cat([first, n.c(first + p[1]), p[2], p[3]], 1).mean((2, 3)))

    net = Net(forward, a=conv(3, 64), b=conv(16, 16), c=conv(16, 16), h=nn.Linear(64, 10)).eval()
    with torch.no_grad():
        net.a.weight[:16] *= 0.01
    smaller = pruned(from_module(net, (3, 8, 8)), "a")
    assert smaller.layers()["b"].weight.shape[1] > 0
    assert smaller(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@dataclass(frozen=True)
class Stays:
    label: str
    forward: Callable[[Net, Tensor], Tensor]
    head: int
    reason: str


STAYS = (
    Stays("gram", lambda n, x: n.h((n.a(x).flatten(2) @ n.a(x).flatten(2).transpose(1, 2)).flatten(1)), 64, "belongs to two"),
    Stays("softmax", lambda n, x: n.h(n.a(x).softmax(1).mean((2, 3))), 8, "compares channels"),
    Stays("image", lambda n, x: n.h((n.a(x) + torch.cat([x] * 8, 1)).mean((2, 3))), 8, "always stays"),
)


@pytest.mark.parametrize("case", STAYS, ids=lambda c: c.label)
def test_what_cannot_go_is_not_offered_and_says_why(case: Stays) -> None:
    network = from_module(Net(case.forward, a=conv(1, 8), h=nn.Linear(case.head, 10)).eval(), (1, 8, 8))
    assert "a" not in groups(network, FREE)
    assert case.reason in left_alone(network, FREE)["a"]


def test_group_norm_loses_the_same_positions_in_every_group() -> None:
    net = Net(lambda n, x: n.h(n.g(n.a(x)).mean((2, 3))), a=conv(1, 16), g=nn.GroupNorm(4, 16), h=nn.Linear(16, 10)).eval()
    network = from_module(net, (1, 8, 8))
    assert groups(network, FREE)["a"].multiple == 4
    assert len(channel_groups(network)["a"].classes) == 4


def test_a_group_names_every_layer_that_it_touches() -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.h((y * torch.sigmoid(n.g(y.mean((2, 3), keepdim=True)))).mean((2, 3)))

    net = Net(forward, a=conv(1, 8), g=conv(8, 8, 1), h=nn.Linear(8, 10))
    assert groups(from_module(net.eval(), (1, 8, 8)), FREE)["a"].layers == ("a", "g", "h")
