"""What a metric is, and what several of them share. Imports no torch: the server knows which metrics there are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from search.errors import SearchError

if TYPE_CHECKING:
    from techniques.head import Task

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]
Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A statistic with each image's influence on it ``(n,)``: its variance is theirs over n (the delta method), and the
    variance of a difference of two networks is that of the differences, paired by image."""

    value: float
    influence: npt.NDArray[np.float64]

    def half_width(self, confidence: float) -> float:
        """Half the width of the two-sided normal interval."""
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        return float(z * self.influence.std() / math.sqrt(len(self.influence)))


@dataclass(frozen=True)
class AccuracyResult:
    """One network on one split. Agreement is a share of images where the network decides for one class; of labels, and of
    outputs that decide nothing, it is the mean of the images' `agreement_of_labels` or `fidelity`.

    Attributes:
        value: the metric, a fraction.
        interval: (low, high) of its two-sided 95% interval: Wilson's for shares of images, else `Estimate`'s.
        correct: per image ``(n,)``: whether it counts as hit (for macro-F1 and AUROC: in the sense of top-1).
        logits: ``(n, classes)``, the teacher of other networks' agreement.
        influence: of each image on the value, see `Estimate`; None for shares of images.
    """

    metric: str
    value: float
    interval: tuple[float, float]
    correct: Hits
    logits: Logits
    influence: npt.NDArray[np.float64] | None = None

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.correct)


class Metric(ABC):
    """How good a network is on a split, as a fraction. Stateless; registering one (`search.evaluation.metrics`) is all it takes."""

    name: ClassVar[str]
    label_free: ClassVar[bool] = False
    """Whether it compares with the original's outputs instead of labels."""

    @abstractmethod
    def score(self, logits: Logits, labels: Labels | None, teacher: Logits | None, task: Task) -> AccuracyResult:
        """Of logits ``(n, columns)`` against labels ``(n,)`` or ``(n, labels)``, or against the teacher's logits.

        Args:
            task: what the logits decide (`techniques.head`).

        Raises:
            SearchError: what it needs is not there, or the outputs have no class for a label.
        """

    @abstractmethod
    def chance(self, labels: Labels) -> float:
        """What a network reaches that has learnt nothing but the most frequent classes; 0 where there is no such thing."""


def estimated(metric: str, estimate: Estimate, correct: Hits, logits: Logits) -> AccuracyResult:
    """A result with the normal interval of an estimate."""
    half = estimate.half_width(0.95)
    interval = max(0.0, estimate.value - half), min(1.0, estimate.value + half)
    return AccuracyResult(metric, estimate.value, interval, correct, logits, estimate.influence)


def share_of_hits(metric: str, correct: Hits, logits: Logits) -> AccuracyResult:
    """A result that is a share of images."""
    value = float(correct.mean())
    return AccuracyResult(metric, value, wilson_interval(int(correct.sum()), len(correct)), correct, logits)


def wilson_interval(hits: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927; Agresti and Coull 1998, equation 2)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = hits / images, 1 + z * z / images
    centre = (share + z * z / (2 * images)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return max(0.0, centre - half), min(1.0, centre + half)


def checked_labels(logits: Logits, labels: Labels | None, metric: str) -> Labels:
    """The labels, where the outputs have a class for each.

    Raises:
        SearchError: there are none, or more classes than outputs.
    """
    if labels is None:
        raise SearchError(f"metric {metric!r} needs labels and the dataset has none; use metric 'agreement'")
    classes = labels.shape[1] if labels.ndim > 1 else int(labels.max()) + 1
    if classes > logits.shape[1]:
        raise SearchError(
            f"the dataset has {classes} classes and the network {logits.shape[1]} outputs; the labels are not its own"
        )
    return labels


def finite(logits: Logits) -> Logits:
    """NaN would win an argmax; an image with such outputs is never a hit."""
    if np.isfinite(logits).all():
        return logits
    return np.where(np.isfinite(logits).all(axis=1, keepdims=True), logits, -np.inf)


def shares_of_classes(labels: Labels) -> npt.NDArray[np.float64]:
    """Share of images of each class that occurs, the most frequent first."""
    counts = labels.sum(axis=0) if labels.ndim > 1 else np.bincount(labels)
    return np.sort(counts[counts > 0] / len(labels))[::-1]


def hits(logits: Logits, target: Labels, k: int) -> Hits:
    """Per image: whether one of the k largest outputs is a label of it."""
    k = min(k, logits.shape[1])
    best = np.argpartition(-logits, k - 1, axis=1)[:, :k] if k > 1 else logits.argmax(axis=1)[:, None]
    if target.ndim > 1:
        padded = np.pad(target, ((0, 0), (0, logits.shape[1] - target.shape[1])))
        hits = np.take_along_axis(padded, best, axis=1).any(axis=1)
    else:
        hits = (best == target[:, None]).any(axis=1)
    return np.asarray(hits & np.isfinite(logits).all(axis=1), np.bool_)
