"""A toy metric as somebody else would bring it: one file, and one registration by an entry point. Not part of Paretopress."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.evaluation.metrics.base import AccuracyResult, Estimate, Labels, Logits, Metric, checked_labels, estimated, finite, hits

if TYPE_CHECKING:
    from techniques.head import Task


class WorstClass(Metric):
    """Share of hits in the class that has the fewest."""

    name = "worst_class"

    def score(self, logits: Logits, labels: Labels | None, teacher: Logits | None, task: Task) -> AccuracyResult:
        """See the base."""
        target = checked_labels(logits, labels, self.name)
        correct = hits(finite(logits), target, 1)
        recalls = {int(one): float(correct[target == one].mean()) for one in np.unique(target)}
        worst = min(recalls, key=lambda one: recalls[one])
        inside = target == worst
        influence = np.where(inside, (correct - recalls[worst]) * len(target) / inside.sum(), 0.0)
        return estimated(self.name, Estimate(recalls[worst], influence), correct, logits)

    def chance(self, labels: Labels) -> float:
        """A network that always says the same misses all others."""
        return 0.0
