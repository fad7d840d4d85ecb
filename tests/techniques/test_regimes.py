"""What acts on a network beside its steps: the same plan in every rung, resumed or not, and nothing left behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from techniques.distillation.soft_targets import SoftTargets
from techniques.effort import TrainingEffort
from techniques.errors import UnsupportedNetworkError
from techniques.export import to_onnx, to_pt2
from techniques.network import Network
from techniques.training.loop import Training, fit
from techniques.training.parts import Regime, SgdConfig
from tests.techniques.digits import context, digits, same_state, state, untrained, with_teacher

EFFORT = TrainingEffort((0, 3, 5), 32, last_steps=4)


@dataclass
class Shrinking(Regime):
    """Takes from the stem what the plan says; tells what it was told."""

    told: list[tuple[int, int]] = field(default_factory=list, repr=False)

    def after_step(self, network: Network, step: int, steps: int) -> None:
        self.told.append((step, steps))
        stem = network.graph.get_submodule("stem.0")
        assert isinstance(stem, nn.Conv2d)
        with torch.no_grad():
            stem.weight.mul_(1 - 0.1 * min(step / steps, 1.0))


class Halved(nn.Module):
    """A parametrization."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


@dataclass
class Parametrizing(Regime):
    """Adds one, and takes it away unless it forgets."""

    forgets: bool = False

    def begin(self, network: Network) -> None:
        parametrize.register_parametrization(network.graph.get_submodule("stem.0"), "weight", Halved())

    def finish(self, network: Network) -> None:
        if not self.forgets:
            parametrize.remove_parametrizations(network.graph.get_submodule("stem.0"), "weight")


def _fit(regime: Regime, effort: TrainingEffort = EFFORT, checkpoint: Path | None = None) -> Network:
    training = Training((SoftTargets(4.0, 0.9, "classes"),), (regime,), SgdConfig(0.02, 5e-4))
    return fit(untrained(), with_teacher(digits()[0]), effort, training, context(), checkpoint)


def test_a_regime_hears_the_same_plan_in_every_rung(tmp_path: Path) -> None:
    regime, file = Shrinking(), tmp_path / "c0001.rungs"
    for effort in (EFFORT.up_to(1), EFFORT.up_to(2), EFFORT):
        _fit(regime, effort, file)
    assert regime.told == [(step, 8) for step in range(1, 13)]


def test_resumed_or_not_the_weights_are_the_same(tmp_path: Path) -> None:
    whole, file = _fit(Shrinking()), tmp_path / "c0001.rungs"
    _fit(Shrinking(), EFFORT.up_to(1), file)
    assert same_state(state(whole), state(_fit(Shrinking(), EFFORT, file)))


def test_a_last_rung_leaves_the_rungs_before_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "c0001.rungs"
    before = _fit(Shrinking(), EFFORT.up_to(1), file)
    _fit(Shrinking(), EFFORT, file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c0001.rungs", "c0001.rungs.last"]
    regime = Shrinking()
    assert same_state(state(before), state(_fit(regime, EFFORT.up_to(1), file)))
    assert regime.told == [], "nothing is trained again"


@pytest.mark.filterwarnings("ignore")
def test_what_only_training_needs_is_taken_away_or_refused(tmp_path: Path) -> None:
    finished = _fit(Parametrizing(), TrainingEffort((2,), 32))
    assert to_onnx(finished)
    forgotten = _fit(Parametrizing(forgets=True), TrainingEffort((2,), 32))
    with pytest.raises(UnsupportedNetworkError, match=r"stem.0: parametrizations of training are left"):
        to_onnx(forgotten)
    with pytest.raises(UnsupportedNetworkError, match="parametrizations"):
        to_pt2(forgotten, tmp_path / "model.pt2")
