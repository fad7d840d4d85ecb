"""The training loop: rungs of steps, each a learning-rate cycle of its own, resumable between rungs, bit for bit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from techniques.base import Effort
from techniques.context import Batch, ImageSource, TechniqueContext
from techniques.errors import DataRequiredError, InterruptedTrainingError, TechniqueError
from techniques.head import training_logits
from techniques.network import Network
from techniques.training.checkpoint import RungCheckpoint, peek_key, training_key
from techniques.training.device import placed_on, random_devices

Objective = Callable[[Tensor, Batch], Tensor]
WARM_UP = 0.1


@dataclass(frozen=True)
class SgdConfig:
    """SGD with Nesterov momentum; weight decay spares biases and norms."""

    learning_rate: float
    weight_decay: float
    momentum: float = 0.9


def train(
    network: Network,
    data: ImageSource,
    effort: Effort,
    objective: Objective,
    optimizer: SgdConfig,
    context: TechniqueContext,
    checkpoint: Path | None = None,
    facts: tuple[object, ...] = (),
) -> Network:
    """Train a copy for every rung of ``effort``; ``objective`` maps logits and batch to a scalar loss.

    With a checkpoint file, rungs that it holds are taken from it. A file of another training (other weights, seed, steps,
    ``facts``) or of a later rung than asked for is not read, and is overwritten by this training's first finished rung.

    Raises:
        DataRequiredError: ``data`` is empty.
        InterruptedTrainingError: ``context.interrupt`` said so.
        TechniqueError: the loss became NaN or infinite.
    """
    student = network.clone()
    student.graph.requires_grad_(True)
    rung, epoch = -1, 0
    found = peek_key(checkpoint) if checkpoint is not None else None
    start = training_key(student, optimizer, effort.batch_size, context.seed, context.task, facts)
    keys = [_key(start, effort, index) for index in range(len(effort.rung_steps))]
    if checkpoint is not None and found is not None and found[1] < len(keys) and found[0] == keys[found[1]]:
        held = RungCheckpoint.load(checkpoint, student)
        rung, epoch = held.rung, held.next_epoch
    with placed_on(context.device, student):
        for index in range(rung + 1, len(keys)):
            epoch = _run_rung(student, data, effort, index, epoch, objective, optimizer, context)
            if checkpoint is not None and effort.rung_steps[index]:
                RungCheckpoint(keys[index], index, epoch).save(checkpoint, student)
    return student.eval()


def _key(start: str, effort: Effort, rung: int) -> str:
    return hashlib.sha256(f"{start}{effort.rung_steps[: rung + 1]}".encode()).hexdigest()


def _run_rung(
    student: Network,
    data: ImageSource,
    effort: Effort,
    rung: int,
    epoch: int,
    objective: Objective,
    config: SgdConfig,
    context: TechniqueContext,
) -> int:
    """One cycle; returns the first epoch that the next rung may use."""
    steps = effort.rung_steps[rung]
    if not steps:
        return epoch
    optimizer = _sgd(student, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cycle(step, steps))
    student.train()
    logits = training_logits(student, context.task)
    with torch.random.fork_rng(random_devices(context.device)), torch.enable_grad():
        torch.manual_seed(_rung_seed(context.seed, rung))
        batches = _Batches(data, epoch, effort.batch_size)
        for step, batch in zip(range(steps), (one.on(context.device) for one in batches), strict=False):
            if context.interrupt is not None and context.interrupt():
                raise InterruptedTrainingError(f"training was interrupted at step {step} of {steps} of rung {rung}")
            loss = objective(logits(batch.images), batch)
            if not math.isfinite(loss.item()):
                raise TechniqueError(
                    f"the loss became {loss.item()} at step {step} of rung {rung} (learning rate {config.learning_rate}): "
                    "use a lower learning rate, or compress less"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if context.step_done is not None:
                context.step_done(rung, step + 1)
    student.eval()
    return batches.epoch + 1


def cycle(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over a tenth of the steps, then a cosine to near zero."""
    warm = max(1, round(steps * WARM_UP))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm + 1) / (steps - warm + 1)))


def _rung_seed(seed: int, rung: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{rung}".encode()).digest()[:7], "big")


def _sgd(network: Network, config: SgdConfig) -> torch.optim.SGD:
    parameters = list(network.graph.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True)


class _Batches:
    """Endless batches, one epoch after the other; ``epoch`` is the one being read. Single images are left out: batch
    norm has no statistics for them."""

    def __init__(self, data: ImageSource, epoch: int, batch_size: int) -> None:
        self.epoch = epoch
        self._data = data
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        while True:
            found = False
            for batch in self._data.batches(self.epoch, self._batch_size):
                if len(batch.images) > 1:
                    found = True
                    yield batch
            if not found:
                raise DataRequiredError(f"training needs batches of at least 2 images; the data has {len(self._data)} images")
            self.epoch += 1
