"""How long a candidate is trained. Imports nothing heavy: a plan is made where torch is not."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT32, BFLOAT16 = "float32", "bfloat16"
DTYPES = (FLOAT32, BFLOAT16)
"""What the passes of a training step may compute in."""


@dataclass(frozen=True)
class TrainingEffort:
    """How long to train: optimiser steps per rung, and at the end.

    ``TrainingEffort((0, 200, 600), batch_size=128)`` is rung 0 without training, then 200 steps, then 600 more, all at the peak of
    the learning rate once that has warmed up. A last rung of ``last_steps`` lets it decay: only few candidates come so far.
    """

    rung_steps: tuple[int, ...]
    batch_size: int = 128
    last_steps: int = 0
    planned_steps: int = 0
    """Over all rungs before the last one, of the whole plan that this is a part of; 0: this is the whole plan."""

    def up_to(self, rung: int) -> TrainingEffort:
        """The same effort cut off after ``rung``, without the last rung; it knows the whole plan."""
        return TrainingEffort(self.rung_steps[: rung + 1], self.batch_size, planned_steps=self.known_steps)

    @property
    def known_steps(self) -> int:
        """See ``planned_steps``."""
        return self.planned_steps or sum(self.rung_steps)

    @property
    def stages(self) -> tuple[int, ...]:
        """Steps of every rung, the last one included where there is one."""
        return (*self.rung_steps, self.last_steps) if self.last_steps else self.rung_steps
