"""The peak of the learning rate by a short test: below where training diverges, above where it crawls."""

from __future__ import annotations

import pytest
import torch

from techniques.apply import composed
from techniques.base import TrainingEffort
from techniques.distillation.soft_targets import Distillation, DistillationConfig
from techniques.errors import InterruptedTrainingError
from techniques.network import Network
from techniques.training.range_test import HIGHEST, LOWEST, peak_learning_rate
from tests.techniques.digits import accuracy, context, digits, distilled, same_state, state, trained, untrained, with_teacher

TRAINING = composed([(Distillation(), DistillationConfig())], context())


def _peak(network: Network, **changes: object) -> float:
    return peak_learning_rate(network, with_teacher(digits()[0]), TRAINING, context(**changes), batch_size=64)


def test_the_peak_trains() -> None:
    peak = _peak(untrained())
    assert LOWEST < peak < HIGHEST
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


def test_a_network_with_larger_weights_diverges_earlier() -> None:
    wild = untrained().clone()
    with torch.no_grad():
        for name, parameter in wild.graph.named_parameters():
            if name.startswith("head") or parameter.ndim == 2:
                parameter.mul_(30)
    assert _peak(wild) <= _peak(untrained())


def test_it_stops_when_asked() -> None:
    with pytest.raises(InterruptedTrainingError):
        _peak(untrained(), interrupt=lambda: True)
