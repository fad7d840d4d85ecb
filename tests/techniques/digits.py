"""A small real case for the technique tests: ResNet-8 trained on scikit-learn's 8x8 digits in a few seconds."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from examples.resnet import ResNet
from techniques.apply import composed
from techniques.context import Batch, ImageSource, TechniqueContext
from techniques.distillation.soft_targets import Distillation, DistillationConfig
from techniques.effort import TrainingEffort
from techniques.lift import from_module
from techniques.network import Network
from techniques.training.loop import fit

INPUT_SHAPE = (1, 8, 8)


@dataclass(frozen=True)
class TensorSource:
    """Images in memory; each epoch has its own order, epoch 0 the given one."""

    images: Tensor
    labels: Tensor | None = None
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        order = torch.arange(len(self))
        if epoch:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(epoch))
        for index in order.split(batch_size):
            labels = None if self.labels is None else self.labels[index]
            logits = None if self.logits is None else self.logits[index]
            yield Batch(self.images[index], labels, logits)


@functools.cache
def digits() -> tuple[TensorSource, TensorSource]:
    """Train (1,437) and test (360) digits."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = (torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)[order] - 5) / 6
    labels = torch.tensor(data.target, dtype=torch.int64)[order]
    return TensorSource(images[:1437], labels[:1437]), TensorSource(images[1437:], labels[1437:])


@functools.cache
def untrained() -> Network:
    torch.manual_seed(0)
    return from_module(ResNet(8), INPUT_SHAPE)


@functools.cache
def trained() -> Network:
    """About 97% on the test digits."""
    effort = TrainingEffort((), batch_size=64, last_steps=80)
    return distilled(untrained(), digits()[0], effort, DistillationConfig(learning_rate=0.1), TechniqueContext())


def distilled(
    network: Network,
    data: ImageSource,
    effort: TrainingEffort,
    config: DistillationConfig | None = None,
    known: TechniqueContext | None = None,
    checkpoint: Path | None = None,
) -> Network:
    """Trained by `Distillation` alone."""
    known = known or context()
    training = composed([(Distillation(), config or DistillationConfig())], known)
    return fit(network, data, effort, training, known, checkpoint)


def calibration() -> TensorSource:
    train, _ = digits()
    assert train.labels is not None
    return TensorSource(train.images[:256], train.labels[:256])


def context(**changes: object) -> TechniqueContext:
    return TechniqueContext(calibration=calibration(), **changes)  # type: ignore[arg-type]


def with_teacher(source: TensorSource, labels: bool = True) -> TensorSource:
    return TensorSource(source.images, source.labels if labels else None, outputs(trained(), source.images))


@torch.no_grad()
def outputs(network: Network, images: Tensor) -> Tensor:
    return torch.cat([network(part) for part in torch.split(images, 256)])


def accuracy(network: Network) -> float:
    _, test = digits()
    assert test.labels is not None
    return float((outputs(network, test.images).argmax(1) == test.labels).float().mean())


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.graph.state_dict().items()}


def state(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.graph.state_dict().items()}


def same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
