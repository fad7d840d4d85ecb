"""Random networks: whatever is offered computes what the original with zeros in the removed places does, and has priced shapes."""

from __future__ import annotations

import pytest
import torch

from techniques.context import TechniqueContext
from techniques.lift import from_module
from techniques.pruning.structured import StructuredPruning, StructuredPruningConfig, groups, offered_groups, unproven
from tests.techniques.random_networks import INPUT_SHAPE, RandomNetwork

FREE = TechniqueContext(channel_multiple=1)
PER_TEST = 10
_DEALT = {"shuffle", "moved", "split"}
"""Pieces after which the shape of what follows depends on which channels are weak, which no meta network knows."""


@pytest.mark.parametrize("first", range(0, 100, PER_TEST))
def test_removal_is_exact_and_priced_on_the_right_shapes(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        module = RandomNetwork(seed).eval()
        network = from_module(module, INPUT_SHAPE)
        assert unproven(network, FREE) == {}, (seed, module.pieces)
        config = StructuredPruningConfig(dict.fromkeys(offered_groups(network, FREE), 0.5))
        real = StructuredPruning().apply(network, config, FREE)
        assert real(torch.randn(3, *INPUT_SHAPE)).shape == (3, 5)
        meta = StructuredPruning().apply(network.to_meta(), config, FREE)
        if not _DEALT & set(module.pieces):
            shapes = [{name: tuple(p.shape) for name, p in n.graph.named_parameters()} for n in (real, meta)]
            assert shapes[0] == shapes[1], (seed, module.pieces)
        assert groups(network, FREE).keys() == groups(network.to_meta(), FREE).keys()
