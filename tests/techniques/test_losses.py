from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from examples.resnet import ResNet
from techniques.context import Batch
from techniques.distillation.soft_targets import DistillationConfig, distillation_loss
from techniques.effort import TrainingEffort
from techniques.head import Task
from techniques.lift import from_module
from techniques.network import Network
from techniques.training.losses import divergence, label_loss, own_decision_loss, soft_loss
from tests.techniques.digits import TensorSource, context, digits, distilled, outputs, state, trained, untrained, with_teacher

Z = torch.tensor([[2.0], [-1.0], [0.3]])
V = torch.tensor([[1.0], [-3.0], [-0.2]])
YES = torch.tensor([1, 0, 1])
MANY = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 3
TEACHER = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)) * 3


def pair(z: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(z), z], 1)


def test_two_classes_of_a_single_logit_are_binary_cross_entropy() -> None:
    torch.testing.assert_close(
        label_loss(pair(Z), YES, "classes"), functional.binary_cross_entropy_with_logits(Z[:, 0], YES.float())
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_single_logit_is_distilled_by_its_tempered_sigmoid(temperature: float) -> None:
    teacher = (V / temperature).sigmoid()
    cross = functional.binary_cross_entropy_with_logits(Z / temperature, teacher)
    own = functional.binary_cross_entropy_with_logits(V / temperature, teacher)
    expected = (cross - own) * temperature**2
    torch.testing.assert_close(soft_loss(pair(Z), pair(V), "classes", temperature), expected)
    torch.testing.assert_close(soft_loss(Z, V, "labels", temperature), expected)


def test_each_label_is_decided_alone() -> None:
    hot = (TEACHER > 0).long()
    each = functional.binary_cross_entropy_with_logits(MANY, hot.float(), reduction="none")
    torch.testing.assert_close(label_loss(MANY, hot, "labels"), each.mean() * 4)
    torch.testing.assert_close(label_loss(MANY[:, :3], hot[:, :3], "labels"), each[:, :3].sum(1).mean())
    torch.testing.assert_close(label_loss(MANY, hot[:, :3], "labels"), each[:, :3].sum(1).mean())
    index = torch.tensor([0, 5, 2, 2])
    torch.testing.assert_close(label_loss(MANY, index, "labels"), label_loss(MANY, functional.one_hot(index, 6), "labels"))


@pytest.mark.parametrize("task", ["classes", "labels", "values"])
def test_nothing_is_lost_on_the_teacher_itself(task: Task) -> None:
    assert divergence(TEACHER, TEACHER, task) == pytest.approx(0.0, abs=1e-6)
    assert float(soft_loss(TEACHER, TEACHER, task, 4.0)) == pytest.approx(0.0, abs=1e-5)
    assert divergence(MANY, TEACHER, task) > 0.1


def test_the_divergence_of_values_knows_no_unit() -> None:
    assert divergence(MANY, TEACHER, "values") == pytest.approx(divergence(MANY * 1e-3, TEACHER * 1e-3, "values"), rel=1e-4)
    assert divergence(torch.zeros_like(TEACHER), TEACHER, "values") == pytest.approx(1.0)


def test_distillation_takes_the_losses_of_the_task() -> None:
    hot = (TEACHER > 0).long()
    batch = Batch(torch.zeros(4, 1, 8, 8), hot, TEACHER)
    expected = 0.7 * soft_loss(MANY, TEACHER, "labels", 2.0) + 0.3 * label_loss(MANY, hot, "labels")
    torch.testing.assert_close(distillation_loss(MANY, batch, 2.0, 0.7, "labels"), expected)


@pytest.mark.parametrize("task", ["classes", "labels", "values"])
def test_images_alone_say_what_outputs_depend_on(task: Task) -> None:
    logits = MANY.clone().requires_grad_()
    own_decision_loss(logits, task).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) > 0


def test_values_are_distilled() -> None:
    source = digits()[0]
    taught = TensorSource(source.images, None, outputs(trained(), source.images))
    before = divergence(outputs(untrained(), source.images), outputs(trained(), source.images), "values")
    network = distilled(untrained(), taught, TrainingEffort((60,), 64), DistillationConfig(), context(task="values"))
    assert divergence(outputs(network, source.images), outputs(trained(), source.images), "values") < 0.3 * before


def ended(outputs: int, end: nn.Module) -> Network:
    torch.manual_seed(0)
    return from_module(nn.Sequential(ResNet(8, (8, 8, 16), num_classes=outputs), end), (1, 8, 8))


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)], ids=["softmax", "log-softmax"])
def test_a_network_with_an_activation_behind_it_is_trained_as_its_twin_without(end: nn.Module) -> None:
    source = with_teacher(digits()[0])
    twins = [
        distilled(ended(10, last), source, TrainingEffort((3,), 64), DistillationConfig(), context())
        for last in (nn.Identity(), end)
    ]
    for name, tensor in state(twins[0]).items():
        torch.testing.assert_close(state(twins[1])[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("end", [nn.Identity(), nn.Sigmoid()], ids=["logit", "sigmoid"])
def test_a_single_output_learns_two_classes(end: nn.Module) -> None:
    train, test = digits()
    assert train.labels is not None
    assert test.labels is not None
    source = TensorSource(train.images, train.labels % 2)
    network = distilled(ended(1, end), source, TrainingEffort((40,), 64), DistillationConfig(learning_rate=0.1), context())
    decided = outputs(network, test.images)[:, 0] > (0.5 if isinstance(end, nn.Sigmoid) else 0.0)
    assert float((decided == (test.labels % 2 == 1)).float().mean()) > 0.9
