"""The training loop: rungs of steps under one schedule, resumable between rungs, bit for bit.

The learning rate warms up once and then stays at its peak for all rungs of a search, so that no rung throws back what the one
before has reached; a rung is read with the mean of its last weights, which is what a decay would come to (Izmailov et al. 2018,
section 3). The last rung, which few candidates reach, lets it decay to zero (Hu et al. 2024, section 4: warm-up, stable, decay); a
long one begins higher, for it has the steps to come down again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from techniques.context import Batch, ImageSource, TechniqueContext
from techniques.effort import FLOAT32, TrainingEffort
from techniques.errors import DataRequiredError, InterruptedTrainingError, TechniqueError
from techniques.head import training_logits
from techniques.network import Network
from techniques.training.averaging import WeightMean
from techniques.training.batchnorm import recalibrate
from techniques.training.checkpoint import RungCheckpoint, peek_key, training_key
from techniques.training.device import placed_on, random_devices
from techniques.training.parts import Loss, Regime, SgdConfig

WARM_UP_STEPS = 20
LONG_STEPS, MOST_GAIN = 250, 3.0
"""A last rung of more steps than these begins above the peak of the rungs, in proportion, at most so many times."""
AVERAGED_SHARE = 0.25
"""Of a rung's steps, the last ones: over their weights the mean is taken."""


@dataclass(frozen=True)
class Training:
    """What is minimised, what happens beside, and how steps are made."""

    losses: tuple[Loss, ...]
    regimes: tuple[Regime, ...]
    optimizer: SgdConfig

    def loss(self, network: Network, outputs: Tensor, batch: Batch) -> Tensor:
        """The sum of all terms."""
        return sum((one(network, outputs, batch) for one in self.losses), torch.zeros((), device=outputs.device))


def fit(
    network: Network,
    data: ImageSource,
    effort: TrainingEffort,
    training: Training,
    context: TechniqueContext,
    checkpoint: Path | None = None,
) -> Network:
    """Train a copy for every rung of ``effort``, and the last one if there is one.

    With a checkpoint file, rungs that it holds are taken from it. A file of another training (other weights, seed, steps, losses,
    regimes) or of a later rung than asked for is not read, and is overwritten by this training's first finished rung. With a last
    rung, all is written to a file beside it (`last_checkpoint`): what was read before the last rung can be made again. The same
    network, data, effort, training and seed give the same weights, resumed or not (one machine, fixed threads).

    Raises:
        DataRequiredError: ``data`` is empty.
        InterruptedTrainingError: ``context.interrupt`` said so.
        TechniqueError: the loss became NaN or infinite.
    """
    student = network.clone()
    facts: tuple[object, ...] = (
        training.losses,
        training.regimes,
        training.optimizer,
        effort.batch_size,
        context.seed,
        context.task,
    )
    # Checkpoints of before there were two types stay valid.
    facts += (context.training_dtype,) if context.training_dtype != FLOAT32 else ()
    start = training_key(student, *facts)
    for regime in training.regimes:
        regime.begin(student)
    student.graph.requires_grad_(True)
    keys = [_key(start, effort, index) for index in range(len(effort.stages))]
    run = _Run(student, sgd(student, training.optimizer), data, effort, training, context)
    rung, written = -1, checkpoint
    if checkpoint is not None:
        written = last_checkpoint(checkpoint) if effort.last_steps else checkpoint
        held = max((run.held(path, keys) for path in {written, checkpoint}), key=lambda found: found[0])
        rung = run.resume(held)
    with placed_on(context.device, student), run.state_on(context.device):
        for index in range(rung + 1, len(keys)):
            if not effort.stages[index]:
                continue
            run.rung(index)
            if written is not None:
                run.checkpoint(keys[index], index).save(written, student)
    return run.result()


def last_checkpoint(checkpoint: Path) -> Path:
    """The file of a last rung, beside that of the rungs before."""
    return checkpoint.with_name(f"{checkpoint.name}.last")


def schedule(step: int, effort: TrainingEffort, rung: int) -> float:
    """Times the learning rate of the rungs, at a step: linear warm-up, that rate, and in the last rung a cosine to near zero.

    What holds for some hundred steps is low for many. ResNet-20 at 2.5 times the rate of the range test: 0.4 points more after 700
    steps, made 17 times smaller, 0.2 more after 500, made 12.5 times smaller.
    """
    warm = min(1.0, (sum(effort.rung_steps[:rung]) + step + 1) / WARM_UP_STEPS)
    if rung < len(effort.rung_steps):
        return warm
    raised = 1 + (_gain(effort) - 1) * min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * raised * 0.5 * (1 + math.cos(math.pi * (step + 1) / (effort.last_steps + 1)))


def _gain(effort: TrainingEffort) -> float:
    """How many times the rate of the rungs the last one begins with."""
    return min(max(effort.last_steps / LONG_STEPS, 1.0), MOST_GAIN)


class _Run:
    """One training: the student, its optimiser, and the mean of its last weights."""

    def __init__(
        self,
        student: Network,
        optimizer: torch.optim.SGD,
        data: ImageSource,
        effort: TrainingEffort,
        training: Training,
        context: TechniqueContext,
    ) -> None:
        self._student, self._optimizer, self._data = student, optimizer, data
        self._effort, self._training, self._context = effort, training, context
        self._epoch = 0
        self._mean: WeightMean | None = None

    def held(self, path: Path, keys: Sequence[str]) -> tuple[int, Path]:
        """The rung that a file holds of this training, or -1."""
        found = peek_key(path)
        is_mine = found is not None and found[1] < len(keys) and found[0] == keys[found[1]]
        return (found[1] if found and is_mine else -1), path

    def resume(self, held: tuple[int, Path]) -> int:
        """Take over what a checkpoint of this training holds; returns its rung, or -1."""
        rung, path = held
        if rung < 0:
            return -1
        state = RungCheckpoint.load(path, self._student)
        self._epoch = state.next_epoch
        for parameter, momentum in zip(self._parameters(), state.momenta, strict=True):
            self._optimizer.state[parameter]["momentum_buffer"] = momentum
        self._mean = WeightMean.of(state.mean)
        return rung

    def checkpoint(self, key: str, rung: int) -> RungCheckpoint:
        """What the next life of this training needs."""
        momenta = [self._optimizer.state[p].get("momentum_buffer", torch.zeros_like(p)) for p in self._parameters()]
        return RungCheckpoint(
            key, rung, self._epoch, tuple(m.detach().cpu() for m in momenta), self._mean.values if self._mean else {}
        )

    def state_on(self, device: str) -> _MovedState:
        """The optimiser's state where its parameters are."""
        return _MovedState(self._optimizer, device)

    def rung(self, index: int) -> None:
        """All steps of one rung."""
        student, context, steps = self._student, self._context, self._effort.stages[index]
        is_last = index == len(self._effort.rung_steps)
        averaged_from = steps if is_last else steps - max(1, math.ceil(steps * AVERAGED_SHARE))
        self._mean = None if is_last else WeightMean()
        student.train()
        logits = training_logits(student, context.task, context.training_dtype)
        with torch.random.fork_rng(random_devices(context.device)), torch.enable_grad():
            torch.manual_seed(_rung_seed(context.seed, index))
            batches = _Batches(self._data, self._epoch, self._effort.batch_size)
            for step, batch in zip(range(steps), (one.on(context.device) for one in batches), strict=False):
                if context.interrupt is not None and context.interrupt():
                    raise InterruptedTrainingError(f"training was interrupted at step {step} of {steps} of rung {index}")
                for group in self._optimizer.param_groups:
                    group["lr"] = self._training.optimizer.learning_rate * schedule(step, self._effort, index)
                self._step(logits(batch.images), batch, step, index)
                if self._mean is not None and step >= averaged_from:
                    self._mean.add(student)
                if context.step_done is not None:
                    context.step_done(index, step + 1)
        student.eval()
        self._epoch = batches.epoch + 1

    def _step(self, outputs: Tensor, batch: Batch, step: int, rung: int) -> None:
        loss = self._training.loss(self._student, outputs, batch)
        if not math.isfinite(loss.item()):
            raise TechniqueError(
                f"the loss became {loss.item()} at step {step} of rung {rung} (learning rate "
                f"{self._optimizer.param_groups[0]['lr']:.3g}): use a lower learning rate, or compress less"
            )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        done = sum(self._effort.stages[:rung]) + step + 1
        for regime in self._training.regimes:
            regime.after_step(self._student, done, self._effort.known_steps)

    def result(self) -> Network:
        """The network as it is to be used: mean weights, their own statistics, nothing left that only training needs."""
        result = self._student.clone()
        averaged = self._mean is not None and bool(self._mean.values)
        if self._mean is not None and averaged:
            self._mean.copy_to(result)
        for regime in self._training.regimes:
            regime.finish(result)
        if averaged and self._context.calibration is not None:
            result = recalibrate(result, self._context.calibration)
        return result.eval()

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]


class _MovedState:
    """Moves the momenta of an optimiser to a device, and back to the CPU."""

    def __init__(self, optimizer: torch.optim.SGD, device: str) -> None:
        self._optimizer, self._device = optimizer, device

    def __enter__(self) -> None:
        self._move(self._device)

    def __exit__(self, *_: object) -> None:
        self._move("cpu")

    def _move(self, device: str) -> None:
        for state in self._optimizer.state.values():
            if state.get("momentum_buffer") is not None:
                state["momentum_buffer"] = state["momentum_buffer"].to(device)


def _key(start: str, effort: TrainingEffort, rung: int) -> str:
    # Checkpoints of before there was a gain are those of another training, but for rungs and short last ones.
    gain = f"gain {_gain(effort)}" if rung == len(effort.rung_steps) and _gain(effort) > 1 else ""
    return hashlib.sha256(f"{start}{effort.stages[: rung + 1]}{effort.known_steps}{gain}".encode()).hexdigest()


def _rung_seed(seed: int, rung: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{rung}".encode()).digest()[:7], "big")


def sgd(network: Network, config: SgdConfig) -> torch.optim.SGD:
    """An optimiser of all parameters."""
    parameters = list(network.graph.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True)


def training_batches(data: ImageSource, batch_size: int, steps: int, context: TechniqueContext) -> Iterator[tuple[int, Batch]]:
    """So many numbered batches from the first epoch on.

    Raises:
        DataRequiredError, InterruptedTrainingError: as `fit`.
    """
    for step, batch in zip(range(steps), _Batches(data, 0, batch_size), strict=False):
        if context.interrupt is not None and context.interrupt():
            raise InterruptedTrainingError(f"interrupted at step {step} of {steps}")
        yield step, batch.on(context.device)


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
