"""The network decides as the original does; needs no labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from search.errors import SearchError
from search.evaluation.metrics.base import AccuracyResult, Estimate, Labels, Logits, Metric, estimated, finite, hits, share_of_hits

if TYPE_CHECKING:
    from techniques.head import Task


class Agreement(Metric):
    """Share of images with the original's class; of labels, and of outputs that decide nothing, the mean of the images' own."""

    name = "agreement"
    label_free = True

    def score(self, logits: Logits, labels: Labels | None, teacher: Logits | None, task: Task) -> AccuracyResult:
        """See the base."""
        if teacher is None:
            raise SearchError("metric 'agreement' compares with the original's outputs, and none are given")
        if task == "classes":
            target = np.asarray(teacher.argmax(axis=1))
            logits = finite(logits)
            return share_of_hits(self.name, hits(logits, target, 1), logits)
        shares = (agreement_of_labels if task == "labels" else fidelity)(logits, teacher)
        shares = np.where(np.isfinite(logits).all(axis=1), shares, 0.0)
        value = float(shares.mean())
        return estimated(self.name, Estimate(value, shares - value), shares >= 1.0, logits)

    def chance(self, labels: Labels) -> float:
        """There is none: it is not held against labels."""
        return 0.0


def agreement_of_labels(logits: Logits, teacher: Logits) -> npt.NDArray[np.float64]:
    """Per image: of the labels that either says yes to, the share that both do (Godbole and Sarawagi 2004, section 4); 1 if none.

    Shares of all labels would be near 1 for a network that always says no, as most labels are absent from most images.
    """
    yes, expected = logits > 0, teacher > 0
    either = (yes | expected).sum(axis=1)
    return np.asarray(np.where(either, (yes & expected).sum(axis=1) / np.maximum(either, 1), 1.0), np.float64)


def fidelity(logits: Logits, teacher: Logits) -> npt.NDArray[np.float64]:
    """Per image: 1 minus the distance from the teacher's outputs relative to their size, at least 0.

    Outputs smaller than those of most images count by the root mean square over the split: near zero, no error would be small.
    """
    squares = np.square(teacher, dtype=np.float64).sum(axis=1)
    scale = np.sqrt(np.maximum(np.maximum(squares, squares.mean()), 1e-30))
    with np.errstate(invalid="ignore"):
        distance = np.sqrt(np.square(logits.astype(np.float64) - teacher).sum(axis=1))
    return np.asarray(np.clip(1 - np.nan_to_num(distance / scale, nan=1.0), 0.0, 1.0), np.float64)
