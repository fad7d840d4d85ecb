from __future__ import annotations

import pytest
import torch
from torch import nn

from techniques import lift
from techniques.network import Network
from techniques.pruning import dependency
from tests.techniques.small_networks import ShuffleBlock, seeded


def _prune_half(network: Network) -> None:
    graph = dependency.build(network)
    ignored = dependency.output_layers(network)
    for group in list(graph.get_all_groups(ignored_layers=ignored)):
        root, prune = group[0].dep.target.module, group[0].dep.handler
        chosen = graph.get_pruning_group(root, prune, list(range(0, root.weight.shape[0], 2)))
        assert graph.check_pruning_group(chosen)
        chosen.prune()


@pytest.mark.parametrize("meta", [False, True], ids=["real", "meta"])
def test_half_of_every_group_can_go(meta: bool) -> None:
    network = lift.from_module(seeded(ShuffleBlock()), (3, 8, 8))
    before = network.parameter_count()
    network = network.to_meta() if meta else network
    _prune_half(network)
    assert network.parameter_count() < 0.6 * before
    for batch in (1, 2, 7):
        assert network(torch.empty(batch, 3, 8, 8, device="meta" if meta else "cpu")).shape == (batch, 4)


class _Shuffled(nn.Module):
    """Split and shuffle without a norm over channels, so that a channel that is zero stays without effect."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        for layer in (self.branch, self.second):
            left, right = x.chunk(2, dim=1)
            x = torch.cat((left, layer(right).relu()), dim=1)
            b, c, h, w = x.shape
            x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.fc(x.mean((2, 3)))


def test_pruning_through_shuffles_removes_the_right_channels() -> None:
    """Channels that are zero may go without any effect on the output, whichever way they take through the shuffles."""
    module = seeded(_Shuffled())
    dead = {"stem": [0, 1, 5, 9, 12, 13, 14], "branch": [2, 3, 7], "second": [0, 6]}
    with torch.no_grad():
        for name, channels in dead.items():
            module.get_submodule(name).weight[channels] = 0
            module.get_submodule(name).bias[channels] = 0
    network = lift.from_module(module, (3, 8, 8))
    images = torch.randn(3, 3, 8, 8)
    expected = network(images).detach()
    graph = dependency.build(network)
    for name, channels in dead.items():
        layer = network.graph.get_submodule(name)
        graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, channels).prune()
    assert network.graph.get_submodule("stem").weight.shape[0] == 9
    assert torch.allclose(network(images), expected, atol=1e-6)


def test_the_training_mode_is_restored() -> None:
    network = lift.from_module(seeded(ShuffleBlock()), (3, 8, 8)).train()
    dependency.build(network)
    assert network.graph.training
