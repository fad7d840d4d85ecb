"""Mean over classes of the F1 score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.evaluation.metrics.base import (
    AccuracyResult,
    Estimate,
    Labels,
    Logits,
    Metric,
    checked_labels,
    estimated,
    finite,
    hits,
    shares_of_classes,
)

if TYPE_CHECKING:
    from techniques.head import Task


class MacroF1(Metric):
    """Where images have several labels, each is decided at 0."""

    name = "macro_f1"

    def score(self, logits: Logits, labels: Labels | None, teacher: Logits | None, task: Task) -> AccuracyResult:
        """See the base."""
        target, logits = checked_labels(logits, labels, self.name), finite(logits)
        return estimated(self.name, macro_f1(logits, target), hits(logits, target, 1), logits)

    def chance(self, labels: Labels) -> float:
        """One class is always said."""
        return 1 / len(shares_of_classes(labels))


def macro_f1(logits: Logits, target: Labels) -> Estimate:
    """F1 averaged over the classes that occur; with several labels per image, a logit above 0 says yes. Outputs that are not
    finite say nothing: their image is missed, and no class has it.

    F1 = 2 TP / D with D = 2 TP + FP + FN; an image's influence is the derivative of that ratio by its weight.
    """
    classes = np.arange(logits.shape[1])
    truth = target.astype(bool) if target.ndim > 1 else target[:, None] == classes
    guess = logits[:, : truth.shape[1]] > 0 if target.ndim > 1 else logits.argmax(axis=1)[:, None] == classes
    guess &= np.isfinite(logits).all(axis=1, keepdims=True)  # argmax says 0 of them
    present = np.flatnonzero(truth.any(axis=0))
    truth, guess = truth[:, present], guess[:, present]
    twice_hit = 2.0 * (truth & guess)
    seen = truth.astype(np.float64) + guess
    total = seen.sum(axis=0)
    f1 = twice_hit.sum(axis=0) / total
    influence = len(truth) * ((twice_hit - f1 * seen) / total).mean(axis=1)
    return Estimate(float(f1.mean()), influence)
