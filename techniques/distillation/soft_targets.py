"""Distillation: the compressed network learns the original's soft outputs (Hinton et al. 2015, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from techniques.base import Effort, TrainingMethod
from techniques.context import Batch, ImageSource, TechniqueContext
from techniques.errors import DataRequiredError
from techniques.head import Task
from techniques.network import Network
from techniques.parameters import FloatParameter, Parameter
from techniques.training.loop import SgdConfig, train
from techniques.training.losses import label_loss, soft_loss


@dataclass(frozen=True)
class DistillationConfig:
    """How to learn from the original.

    Attributes:
        temperature: softens both outputs; gradients are scaled back by its square.
        alpha: weight of the soft targets; the labels get the rest.
        learning_rate: peak of each rung's cycle.
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
    config_type = DistillationConfig

    def parameters(self, network: Network, context: TechniqueContext) -> Sequence[Parameter]:
        """The three numbers that matter; weight decay stays at its default."""
        return (
            FloatParameter("temperature", 1.0, 8.0, 4.0, log=True),
            FloatParameter("alpha", 0.5, 1.0, 0.9),
            FloatParameter("learning_rate", 0.005, 0.1, 0.05, log=True),
        )

    def fit(
        self,
        network: Network,
        data: ImageSource,
        effort: Effort,
        config: DistillationConfig,
        context: TechniqueContext,
        checkpoint: Path | None = None,
    ) -> Network:
        """See the base. Batches need labels, the original's logits, or both."""
        return train(
            network,
            data,
            effort,
            lambda logits, batch: distillation_loss(logits, batch, config.temperature, config.alpha, context.task),
            SgdConfig(config.learning_rate, config.weight_decay),
            context,
            checkpoint,
            facts=(self.name, self.version, config),
        )


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
