"""The peak of the learning rate by a short test: below where training diverges, above where it crawls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from techniques.apply import composed
from techniques.distillation.soft_targets import Distillation, DistillationConfig
from techniques.effort import TrainingEffort
from techniques.errors import InterruptedTrainingError
from techniques.lift import from_module
from techniques.network import Network
from techniques.training.range_test import HIGHEST, LOWEST, SAFETY, peak_learning_rate
from tests.techniques.digits import accuracy, context, digits, distilled, same_state, state, trained, untrained, with_teacher

TRAINING = composed([(Distillation(), DistillationConfig())], context())


def _peak(network: Network, **changes: object) -> float:
    return peak_learning_rate(network, with_teacher(digits()[0]), TRAINING, context(**changes), batch_size=64)


def test_the_peak_trains() -> None:
    peak = _peak(untrained())
    assert LOWEST < peak <= 1.001 * HIGHEST / SAFETY
    data, effort = with_teacher(digits()[0]), TrainingEffort((60,), 64)
    found, slow = (
        accuracy(distilled(untrained(), data, effort, DistillationConfig(learning_rate=rate))) for rate in (peak, LOWEST)
    )
    assert found > slow
    assert found > 0.8


def test_it_is_repeatable_and_leaves_the_network_alone() -> None:
    network = trained().clone()
    before = state(network)
    assert _peak(network) == _peak(network)
    assert same_state(before, state(network))


def test_a_rate_that_diverges_is_seen() -> None:
    """Without norms, large rates run away: the peak lies far below the highest rate that is tried."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)
    wild = peak_learning_rate(from_module(net, (1, 8, 8)), digits()[0], TRAINING, context(), batch_size=64)
    assert LOWEST <= wild < 0.5 * _peak(untrained())


def test_it_stops_when_asked() -> None:
    with pytest.raises(InterruptedTrainingError):
        _peak(untrained(), interrupt=lambda: True)
