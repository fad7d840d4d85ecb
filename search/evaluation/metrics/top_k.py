"""The label is the largest output, or among the five largest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.evaluation.metrics.base import (
    AccuracyResult,
    Labels,
    Logits,
    Metric,
    checked_labels,
    finite,
    hits,
    share_of_hits,
    shares_of_classes,
)

if TYPE_CHECKING:
    from techniques.head import Task


class TopK(Metric):
    """Share of images whose label is among the ``k`` largest outputs; several labels of an image count as one hit."""

    k: int

    def score(self, logits: Logits, labels: Labels | None, teacher: Logits | None, task: Task) -> AccuracyResult:
        """See the base."""
        target, logits = checked_labels(logits, labels, self.name), finite(logits)
        return share_of_hits(self.name, hits(logits, target, self.k), logits)

    def chance(self, labels: Labels) -> float:
        """The share of the most frequent classes."""
        return float(min(1.0, shares_of_classes(labels)[: self.k].sum()))


class Top1(TopK):
    """Of the largest output."""

    name = "top1"
    k = 1


class Top5(TopK):
    """Of the five largest outputs."""

    name = "top5"
    k = 5
