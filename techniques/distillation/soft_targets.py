"""Distillation: the compressed network learns the original's soft outputs (Hinton et al. 2015, section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from techniques.base import TrainingMethod
from techniques.context import Batch, TechniqueContext
from techniques.errors import DataRequiredError
from techniques.head import Task
from techniques.network import Network
from techniques.parameters import FloatParameter, Parameter
from techniques.training.losses import label_loss, soft_loss
from techniques.training.parts import Loss, SgdConfig


@dataclass(frozen=True)
class DistillationConfig:
    """How to learn from the original.

    Attributes:
        temperature: softens both outputs; gradients are scaled back by its square.
        alpha: weight of the soft targets; the labels get the rest.
        learning_rate: of the rungs; a long last one begins higher (`techniques.training.loop.schedule`).
    """

    temperature: float = 4.0
    alpha: float = 0.9
    learning_rate: float = 0.05
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self.temperature, 0.1, 100.0),
            "alpha": (self.alpha, 0.0, 1.0),
            "learning_rate": (self.learning_rate, 1e-7, 10.0),
            "weight_decay": (self.weight_decay, 0.0, 1.0),
        }
        for name, (value, low, high) in limits.items():
            if not (isinstance(value, int | float) and low <= value <= high):
                raise ValueError(f"{name} must be in [{low}, {high}], got {value!r}")


class Distillation(TrainingMethod[DistillationConfig]):
    """SGD on soft targets of the original, on labels, or on both, as the batches allow."""

    name = "distillation"
    version = 2
    config_type = DistillationConfig
    cites = "Hinton et al. 2015, section 2"
    states_optimizer = True

    def settings(self) -> Sequence[Parameter]:
        """How soft the targets are, and what they count for."""
        return (FloatParameter("temperature", 1.0, 8.0, 4.0, log=True), FloatParameter("alpha", 0.5, 1.0, 0.9))

    def upgraded(self, config: Mapping[str, Any], version: int) -> Mapping[str, Any]:
        """Version 1 had the same numbers and trained each rung by a schedule of its own: it replays to other weights."""
        return config

    def losses(self, config: DistillationConfig, context: TechniqueContext) -> Sequence[Loss]:
        """One term. Batches need labels, the original's logits, or both."""
        return (SoftTargets(config.temperature, config.alpha, context.task),)

    def optimizer(self, config: DistillationConfig) -> SgdConfig:
        """As its config says."""
        return SgdConfig(config.learning_rate, config.weight_decay)


@dataclass(frozen=True)
class SoftTargets:
    """`distillation_loss` as a term of what is minimised."""

    temperature: float
    alpha: float
    task: Task

    def __call__(self, network: Network, outputs: Tensor, batch: Batch) -> Tensor:
        """See `distillation_loss`."""
        return distillation_loss(outputs, batch, self.temperature, self.alpha, self.task)


def distillation_loss(logits: Tensor, batch: Batch, temperature: float, alpha: float, task: Task = "classes") -> Tensor:
    """``alpha`` times the loss on the original's outputs at this temperature, plus ``1 - alpha`` times that on the labels; one
    term alone where the other has no data. What the losses are follows from the task (`techniques.training.losses`).

    Raises:
        DataRequiredError: the batch has neither labels nor teacher logits.
    """
    if batch.teacher_logits is None and batch.labels is None:
        raise DataRequiredError("distillation: batches carry neither labels nor the original's logits; at least one is needed")
    if batch.teacher_logits is None:
        return label_loss(logits, batch.labels, task)  # type: ignore[arg-type]
    soft = soft_loss(logits, batch.teacher_logits, task, temperature)
    if batch.labels is None:
        return soft
    return alpha * soft + (1 - alpha) * label_loss(logits, batch.labels, task)
