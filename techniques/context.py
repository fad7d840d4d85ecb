"""What a technique is given beside the network: plain values, images, and a cost, never a service or a target object."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from techniques.effort import FLOAT32
from techniques.facts import TargetFacts

if TYPE_CHECKING:
    from techniques.head import Task
    from techniques.network import Network


@dataclass(frozen=True)
class Batch:
    """Preprocessed images ``(n, channels, height, width)`` float32, labels ``(n,)`` int64 or ``(n, labels)`` of 0 and 1
    (or none, for label-free data) and the original network's logits (`techniques.head`) on exactly these views, where they
    were computed beforehand."""

    images: Tensor
    labels: Tensor | None = None
    teacher_logits: Tensor | None = None

    def on(self, device: str) -> Batch:
        """The same batch on a device."""
        labels, teacher = (None if one is None else one.to(device) for one in (self.labels, self.teacher_logits))
        return Batch(self.images.to(device), labels, teacher)


class ImageSource(Protocol):
    """Preprocessed images in batches. ``epoch`` picks order and augmentation; the same epoch gives the same batches."""

    def __len__(self) -> int:
        """Number of images in one epoch."""
        ...

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """One pass over the images; the last batch may be smaller."""
        ...


class CostFunction(Protocol):
    """Price of a network (any device, meta included): predicted milliseconds on the target of the search."""

    def __call__(self, network: Network) -> float:
        """Milliseconds of one run at the search's batch size."""
        ...


@dataclass(frozen=True)
class TechniqueContext(TargetFacts):
    """Facts of the target and of the request, as plain values.

    Attributes:
        seed: decides every random choice of a technique.
        learning_rate: peak for training on this network and data, where one was found (`techniques.training.range_test`).
        scopes: shell patterns of module names that may be compressed; others are left untouched.
        calibration: a few hundred training images without augmentation, for importance, statistics and ranges.
        cost: price of a network on the target, where the search has a predictor.
        interrupt: asked before every training step; once it answers True, training raises `InterruptedTrainingError`.
        step_done: told after every training step: the rung, and how many of its steps are done.
        device: where training runs, such as ``cpu`` or ``cuda``; networks come and go on the CPU.
        training_dtype: what the passes of training compute in, see `techniques.effort.DTYPES`; weights are float32.
        task: what the network decides, and so what its outputs are trained and compared as (`techniques.head`).
    """

    seed: int = 0
    learning_rate: float | None = None
    scopes: tuple[str, ...] = ("*",)
    calibration: ImageSource | None = None
    cost: CostFunction | None = None
    interrupt: Callable[[], bool] | None = None
    step_done: Callable[[int, int], None] | None = None
    task: Task = "classes"
    device: str = "cpu"
    training_dtype: str = FLOAT32

    @staticmethod
    def of(facts: TargetFacts, **others: Any) -> TechniqueContext:
        """With the facts of a target, and other fields by name."""
        return TechniqueContext(**{name: getattr(facts, name) for name in TargetFacts.__dataclass_fields__}, **others)

    def in_scope(self, module_name: str) -> bool:
        """Whether the request allows compressing the module of this qualified name."""
        return any(fnmatch.fnmatchcase(module_name, pattern) for pattern in self.scopes)
