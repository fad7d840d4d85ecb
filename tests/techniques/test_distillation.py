from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from techniques.context import Batch, TechniqueContext
from techniques.distillation.soft_targets import DistillationConfig, distillation_loss
from techniques.effort import TrainingEffort
from techniques.errors import DataRequiredError
from techniques.pruning.structured import StructuredPruning, StructuredPruningConfig
from techniques.training.batchnorm import recalibrate
from techniques.training.loop import WARM_UP_STEPS, schedule
from tests.techniques.digits import (
    TensorSource,
    accuracy,
    calibration,
    context,
    digits,
    distilled,
    outputs,
    same_state,
    state,
    trained,
    untrained,
    with_teacher,
)  # fmt: skip

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
TEACHER = torch.tensor([[3.0, -1.0, 0.0], [0.0, 2.0, 0.0]])
LABELS = torch.tensor([0, 1])


def test_loss_is_the_weighted_sum_of_soft_and_hard_targets() -> None:
    images = torch.zeros(2, 1, 8, 8)
    t, alpha = 3.0, 0.7
    soft = functional.kl_div((LOGITS / t).log_softmax(1), (TEACHER / t).softmax(1), reduction="batchmean") * t * t
    hard = functional.cross_entropy(LOGITS, LABELS)
    both = distillation_loss(LOGITS, Batch(images, LABELS, TEACHER), t, alpha)
    torch.testing.assert_close(both, alpha * soft + (1 - alpha) * hard)
    torch.testing.assert_close(distillation_loss(LOGITS, Batch(images, None, TEACHER), t, alpha), soft)
    torch.testing.assert_close(distillation_loss(LOGITS, Batch(images, LABELS), t, alpha), hard)
    with pytest.raises(DataRequiredError, match="labels"):
        distillation_loss(LOGITS, Batch(images), t, alpha)


def test_the_teacher_itself_has_no_soft_loss() -> None:
    loss = distillation_loss(TEACHER, Batch(torch.zeros(2, 1, 8, 8), None, TEACHER), 4.0, 1.0)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("labels", [True, False], ids=["with labels", "label-free"])
def test_a_pruned_network_recovers(labels: bool) -> None:
    ratios = {"stem.0": 0.5, "blocks.1.conv2": 0.5, "blocks.2.conv2": 0.5, "blocks.2.conv1": 0.5}
    pruned = StructuredPruning().apply(trained(), StructuredPruningConfig(ratios), context())
    data = with_teacher(digits()[0], labels)
    recovered = distilled(pruned, data, TrainingEffort((20,), 64), DistillationConfig(), context())
    assert accuracy(recovered) > accuracy(pruned) + 0.1
    assert accuracy(recovered) > accuracy(trained()) - 0.05


def test_another_seed_or_config_does_not_take_a_checkpoint_of_this_one(tmp_path: Path) -> None:
    file, effort, data = tmp_path / "rungs.safetensors", TrainingEffort((2,), 32), digits()[0]
    distilled(untrained(), data, effort, DistillationConfig(), context(), file)
    other = DistillationConfig(learning_rate=0.01)
    fresh = distilled(untrained(), data, effort, other, context())
    assert same_state(state(fresh), state(distilled(untrained(), data, effort, other, context(), file)))


def test_a_damaged_checkpoint_is_trained_over(tmp_path: Path) -> None:
    file, effort = tmp_path / "rungs.safetensors", TrainingEffort((2,), 32)
    file.write_bytes(b"not a checkpoint")
    first = distilled(untrained(), digits()[0], effort, DistillationConfig(), context(), file)
    assert same_state(state(first), state(distilled(untrained(), digits()[0], effort, DistillationConfig(), context(), file)))
    assert [p.name for p in tmp_path.iterdir()] == ["rungs.safetensors"]


def test_training_without_usable_batches_says_so() -> None:
    single = TensorSource(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(DataRequiredError, match="at least 2 images"):
        distilled(untrained(), single, TrainingEffort((1,)), DistillationConfig(), TechniqueContext())


def test_the_learning_rate_warms_up_once_stays_and_ends_near_zero() -> None:
    effort = TrainingEffort((0, 30, 60), last_steps=50)
    rates = [schedule(step, effort, rung) for rung, steps in enumerate(effort.stages) for step in range(steps)]
    assert rates[:WARM_UP_STEPS] == sorted(rates[:WARM_UP_STEPS])
    assert rates[WARM_UP_STEPS - 1 : 90] == [1.0] * (91 - WARM_UP_STEPS)
    assert rates[90:] == sorted(rates[90:], reverse=True)
    assert 0 <= rates[-1] < 0.001
    assert schedule(0, TrainingEffort((), last_steps=10), 0) < 0.1, "a last rung alone warms up, too"


@pytest.mark.parametrize(("steps", "highest"), [(250, 1.0), (500, 2.0), (100_000, 3.0)])
def test_a_long_last_rung_begins_above_the_rate_of_the_rungs(steps: int, highest: float) -> None:
    effort = TrainingEffort((0, 30), last_steps=steps)
    rates = [schedule(step, effort, 2) for step in range(steps)]
    peak = rates.index(max(rates))
    assert 0.98 * highest < rates[peak] <= highest
    assert peak < WARM_UP_STEPS
    assert rates[:peak] == sorted(rates[:peak]), "it rises"
    assert rates[peak:] == sorted(rates[peak:], reverse=True), "and comes down"
    assert 0.9 < rates[0] / schedule(29, effort, 1) < 1.2, "without a leap"


def test_a_rung_does_not_throw_back_what_the_one_before_has_reached() -> None:
    data, effort = with_teacher(digits()[0]), TrainingEffort((0, 40, 40, 40), 64, last_steps=40)
    reached = [accuracy(distilled(untrained(), data, effort.up_to(rung))) for rung in range(1, 4)]
    last = accuracy(distilled(untrained(), data, effort))
    assert all(after > before - 0.02 for before, after in zip(reached, [*reached[1:], last], strict=True))
    assert last > 0.9


def test_a_rung_is_read_with_the_mean_of_its_last_weights(tmp_path: Path) -> None:
    effort, file = TrainingEffort((8,), 32), tmp_path / "rungs.safetensors"
    read = distilled(untrained(), digits()[0], effort, checkpoint=file)
    names = {name.partition(":")[0] for name in load_file(file)}
    assert {"momentum", "mean"} <= names
    raw = load_file(file)["stem.0.weight"]
    assert not torch.equal(raw, read.graph.state_dict()["stem.0.weight"])
    torch.testing.assert_close(load_file(file)["mean:stem.0.weight"], read.graph.state_dict()["stem.0.weight"])


def test_recalibration_repairs_statistics_and_leaves_its_input_alone() -> None:
    stale = trained().clone()
    for module in stale.graph.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    before = state(stale)
    repaired = recalibrate(stale, calibration(), batches=4, batch_size=64)
    assert same_state(before, state(stale))
    assert accuracy(repaired) > accuracy(trained()) - 0.03 > accuracy(stale)
    assert all(m.momentum == 0.1 and not m.training for m in repaired.graph.modules() if isinstance(m, nn.BatchNorm2d))


def test_recalibration_averages_the_batches() -> None:
    images = calibration().images
    repaired = recalibrate(trained(), calibration(), batches=2, batch_size=64)
    stem = trained().graph.get_submodule("stem.0")
    assert isinstance(stem, nn.Conv2d)
    with torch.no_grad():
        mean = torch.stack([stem(part).mean((0, 2, 3)) for part in images[:128].split(64)]).mean(0)
    norm = repaired.graph.get_submodule("stem.1")
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    assert outputs(repaired, images[:2]).shape == (2, 10)
