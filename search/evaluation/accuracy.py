"""How good a network is on a split, with the doubt: metrics, intervals, paired drops, and the check of the baseline.

Accuracies are fractions, drops are percentage points. An image that has several labels counts as hit when the best guess
(or one of the five best) is among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax

from search.errors import BaselineError, SearchError
from search.evaluation.data import ImageFunction, SplitView
from search.preprocessing import Preprocessing
from search.spec import MetricName
from techniques.head import Task

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]
Hits = npt.NDArray[np.bool_]
_COUNTED = frozenset({"top1", "top5", "agreement"})
"""Metrics that are a share of images: their interval is a binomial one."""


@dataclass(frozen=True)
class _Estimate:
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
    outputs that decide nothing, it is the mean of the images' `_agreement_of_labels` or `_fidelity`.

    Attributes:
        value: the metric, a fraction.
        interval: (low, high) of its two-sided 95% interval: Wilson's for shares of images, else `_Estimate`'s.
        correct: per image ``(n,)``: whether it counts as hit (for macro-F1 and AUROC: in the sense of top-1).
        logits: ``(n, classes)``, the teacher of other networks' agreement.
        influence: of each image on the value, see `_Estimate`; None for shares of images.
    """

    metric: MetricName
    value: float
    interval: tuple[float, float]
    correct: Hits
    logits: Logits
    influence: npt.NDArray[np.float64] | None = None

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.correct)


def predict(network: ImageFunction, view: SplitView, batch: int = 256) -> Logits:
    """Logits ``(n, classes)`` float32 in the view's order; the caller has switched the network to evaluation behaviour."""
    parts: list[npt.NDArray[Any]] = []
    with torch.inference_mode():
        for _, images in view.batches(batch):
            parts.append(network(images).numpy())
    if not parts:
        raise SearchError("the split has no images")
    return np.concatenate(parts).astype(np.float32)


def evaluate(
    network: ImageFunction,
    view: SplitView,
    metric: MetricName = "top1",
    batch: int = 256,
    teacher: Logits | None = None,
    task: Task = "classes",
) -> AccuracyResult:
    """Run a network over a split and score it.

    Raises:
        SearchError: the metric needs labels (or, for agreement, the teacher's logits) and there are none.
    """
    return score(predict(network, view, batch), view.labels, metric, teacher, task)


def score(
    logits: Logits, labels: Labels | None, metric: MetricName = "top1", teacher: Logits | None = None, task: Task = "classes"
) -> AccuracyResult:
    """Score logits ``(n, columns)`` against labels ``(n,)`` or ``(n, labels)``, or against the teacher's logits.

    Args:
        task: what the logits decide (`techniques.head`); it says what agreement is.

    Raises:
        SearchError: as `evaluate`; or labels that the outputs have no class for.
    """
    if metric == "agreement" and task != "classes":
        return _mean_agreement(logits, _needed(teacher), task)
    target = _target(logits, labels, metric, teacher)
    if not np.isfinite(logits).all():
        # NaN would win an argmax; such an image is never a hit.
        logits = np.where(np.isfinite(logits).all(axis=1, keepdims=True), logits, -np.inf)
    correct = _hits(logits, target, 5 if metric == "top5" else 1)
    if metric in _COUNTED:
        value = float(correct.mean())
        return AccuracyResult(metric, value, wilson_interval(int(correct.sum()), len(correct)), correct, logits)
    estimate = _macro_f1(logits, target) if metric == "macro_f1" else _auroc(logits, target, task)
    return _estimated(metric, estimate, correct, logits)


def _estimated(metric: MetricName, estimate: _Estimate, correct: Hits, logits: Logits) -> AccuracyResult:
    half = estimate.half_width(0.95)
    interval = max(0.0, estimate.value - half), min(1.0, estimate.value + half)
    return AccuracyResult(metric, estimate.value, interval, correct, logits, estimate.influence)


def wilson_interval(hits: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927; Agresti and Coull 1998, equation 2)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = hits / images, 1 + z * z / images
    centre = (share + z * z / (2 * images)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_drop_points(original_correct: Hits, candidate_correct: Hits, confidence: float = 0.95) -> tuple[float, float, float]:
    """(estimate, low, high) of the drop in percentage points, paired by image; a gain is negative.

    The interval is Agresti and Min's for matched pairs (2005, section 2.2): Wald's after half an observation was added to
    each of the four cells, so that it keeps a width when the networks never disagree.

    Raises:
        ValueError: the two are not over the same images.
    """
    if original_correct.shape != candidate_correct.shape or not len(original_correct):
        raise ValueError(f"pairs need the same images: {original_correct.shape} and {candidate_correct.shape}")
    images = len(original_correct)
    lost = int((original_correct & ~candidate_correct).sum())
    won = int((~original_correct & candidate_correct).sum())
    estimate = (lost - won) / images
    b, c, n = lost + 0.5, won + 0.5, images + 2.0
    centre = (b - c) / n
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    return 100 * estimate, 100 * min(centre - half, estimate), 100 * max(centre + half, estimate)


def drop_points(
    original: AccuracyResult, candidate: AccuracyResult, labels: Labels | None, confidence: float = 0.95
) -> tuple[float, float, float]:
    """(estimate, low, high) of the drop of any metric, in points; macro-F1 and AUROC are paired by image, too.

    Raises:
        ValueError: the results are of different metrics or images.
    """
    if original.metric != candidate.metric:
        raise ValueError(f"drops need one metric: {original.metric} and {candidate.metric}")
    if original.influence is None or candidate.influence is None:
        return paired_drop_points(original.correct, candidate.correct, confidence)
    if (labels is None and original.metric != "agreement") or len(original.logits) != len(candidate.logits):
        raise ValueError("pairs need the same labelled images")
    drop = _Estimate(original.value - candidate.value, original.influence - candidate.influence)
    half = drop.half_width(confidence)
    return 100 * drop.value, 100 * (drop.value - half), 100 * (drop.value + half)


def chance_level(labels: Labels, metric: MetricName) -> float:
    """What a network reaches that has learnt nothing but the most frequent classes; 0 for agreement."""
    if metric == "agreement":
        return 0.0
    if metric == "auroc":
        return 0.5
    counts = labels.sum(axis=0) if labels.ndim > 1 else np.bincount(labels)
    shares = np.sort(counts[counts > 0] / len(labels))[::-1]
    if metric == "macro_f1":
        return 1 / len(shares)
    return float(min(1.0, shares[: 5 if metric == "top5" else 1].sum()))


def near_chance(value: float, labels: Labels, metric: MetricName) -> bool:
    """Whether a network is no better than chance: within three standard errors, or a tenth of the way to perfect."""
    chance = chance_level(labels, metric)
    if chance == 0.0 or chance >= 1.0:
        return False
    return value <= chance + max(_noise(chance, len(labels)), 0.1 * (1 - chance))


def _noise(chance: float, images: int) -> float:
    return 3 * math.sqrt(chance * (1 - chance) / images)


def images_needed(value: float, labels: Labels, metric: MetricName) -> int:
    """How many images it takes to tell a network of this value from chance; 0 where these are enough, or it is no better."""
    chance = chance_level(labels, metric)
    above = value - chance
    if not near_chance(value, labels, metric) or above <= 0.1 * (1 - chance):
        return 0
    return math.floor(9 * chance * (1 - chance) / above**2) + 1


def check_baseline(
    result: AccuracyResult,
    labels: Labels | None,
    expected_accuracy: float | None,
    preprocessing: Preprocessing,
    remarks: Sequence[str] = (),
) -> None:
    """Stop before the search when the original does not do on the given data what it should.

    Args:
        remarks: what is known about the data (the order of its classes, warnings of its upload), told with what to check.

    Raises:
        BaselineError: labels of one class only, too few images to tell, near chance, or ``expected_accuracy`` lies above the
            interval of what was found; the last two name the preprocessing.
    """
    found = f"the original reaches {result.metric} {result.value:.4f} on {result.images} images"
    advice = (
        f"The data was prepared as: {preprocessing.describe()}. Check, in this order: mean and std, the range that they are "
        "meant for, the channel order and layout of the arrays, resize and crop, and that class indices are the model's."
    )
    advice = " ".join([advice, *remarks])
    if labels is not None:
        _check_labels(labels)
        needed = images_needed(result.value, labels, result.metric)
        chance = chance_level(labels, result.metric)
        if needed:
            raise BaselineError(
                f"{found}, which are too few to tell it from chance ({chance:.4f}): its accuracy would need at least {needed}, "
                "and what compression costs needs some hundred more. Upload more labelled images, or search with metric AGREEMENT"
            )
        if near_chance(result.value, labels, result.metric):
            raise BaselineError(f"{found}, near chance ({chance:.4f}). {advice}")
    if expected_accuracy is not None and result.interval[1] < expected_accuracy:
        low, high = result.interval
        message = f"{found} (95% interval {low:.4f} to {high:.4f}), below the expected_accuracy {expected_accuracy:.4f}"
        raise BaselineError(f"{message}. {advice}")


def _check_labels(labels: Labels) -> None:
    """Refuse labels that are the same for every image: any network that always says so would be perfect."""
    if labels.ndim == 1 and len(labels) and (labels == labels[0]).all():
        raise BaselineError(
            f"all {len(labels)} validation images have the label {int(labels[0])}, so no accuracy can be told from a network that "
            "always says so. Upload images of every class (check the label column and the split), or search with metric AGREEMENT"
        )


def _target(logits: Logits, labels: Labels | None, metric: MetricName, teacher: Logits | None) -> Labels:
    if metric == "agreement":
        return np.asarray(_needed(teacher).argmax(axis=1))
    if labels is None:
        raise SearchError(f"metric {metric!r} needs labels and the dataset has none; use metric 'agreement'")
    classes = labels.shape[1] if labels.ndim > 1 else int(labels.max()) + 1
    if classes > logits.shape[1]:
        raise SearchError(
            f"the dataset has {classes} classes and the network {logits.shape[1]} outputs; the labels are not its own"
        )
    return labels


def _needed(teacher: Logits | None) -> Logits:
    if teacher is None:
        raise SearchError("metric 'agreement' compares with the original's outputs, and none are given")
    return teacher


def _mean_agreement(logits: Logits, teacher: Logits, task: Task) -> AccuracyResult:
    shares = (_agreement_of_labels if task == "labels" else _fidelity)(logits, teacher)
    shares = np.where(np.isfinite(logits).all(axis=1), shares, 0.0)
    value = float(shares.mean())
    return _estimated("agreement", _Estimate(value, shares - value), shares >= 1.0, logits)


def _agreement_of_labels(logits: Logits, teacher: Logits) -> npt.NDArray[np.float64]:
    """Per image: of the labels that either says yes to, the share that both do (Godbole and Sarawagi 2004, section 4); 1 if none.

    Shares of all labels would be near 1 for a network that always says no, as most labels are absent from most images.
    """
    yes, expected = logits > 0, teacher > 0
    either = (yes | expected).sum(axis=1)
    return np.asarray(np.where(either, (yes & expected).sum(axis=1) / np.maximum(either, 1), 1.0), np.float64)


def _fidelity(logits: Logits, teacher: Logits) -> npt.NDArray[np.float64]:
    """Per image: 1 minus the distance from the teacher's outputs relative to their size, at least 0.

    Outputs smaller than those of most images count by the root mean square over the split: near zero, no error would be small.
    """
    squares = np.square(teacher, dtype=np.float64).sum(axis=1)
    scale = np.sqrt(np.maximum(np.maximum(squares, squares.mean()), 1e-30))
    with np.errstate(invalid="ignore"):
        distance = np.sqrt(np.square(logits.astype(np.float64) - teacher).sum(axis=1))
    return np.asarray(np.clip(1 - np.nan_to_num(distance / scale, nan=1.0), 0.0, 1.0), np.float64)


def _hits(logits: Logits, target: Labels, k: int) -> Hits:
    k = min(k, logits.shape[1])
    best = np.argpartition(-logits, k - 1, axis=1)[:, :k] if k > 1 else logits.argmax(axis=1)[:, None]
    if target.ndim > 1:
        padded = np.pad(target, ((0, 0), (0, logits.shape[1] - target.shape[1])))
        hits = np.take_along_axis(padded, best, axis=1).any(axis=1)
    else:
        hits = (best == target[:, None]).any(axis=1)
    return np.asarray(hits & np.isfinite(logits).all(axis=1), np.bool_)


def _macro_f1(logits: Logits, target: Labels) -> _Estimate:
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
    return _Estimate(float(f1.mean()), influence)


def _auroc(logits: Logits, target: Labels, task: Task) -> _Estimate:
    """One against the rest, averaged over the classes that both occur and do not occur on some image.

    An image's influence comes from its placement among the images of the other side (DeLong et al. 1988, equations 3-6). One
    whose outputs are not finite is on the wrong side of all others.
    """
    from scipy.stats import rankdata  # seconds to import, in every process that evaluates anything

    broken = np.logical_not(np.isfinite(logits).all(axis=1))
    logits = np.where(broken[:, None], 0.0, logits)
    # Between images, only probabilities compare; of labels that are decided one by one each logit stands for itself.
    scores = log_softmax(logits, axis=1) if target.ndim == 1 and task == "classes" else logits
    truth = target.astype(bool) if target.ndim > 1 else target[:, None] == np.arange(logits.shape[1])
    images = len(truth)
    values, influence = [], np.zeros(images)
    for column in range(truth.shape[1]):
        yes = truth[:, column]
        positives = int(yes.sum())
        if not 0 < positives < images:
            continue
        score_of, negatives = np.where(broken, np.where(yes, -np.inf, np.inf), scores[:, column]), images - positives
        ranks, placement = rankdata(score_of), np.empty(images)
        placement[yes] = (ranks[yes] - rankdata(score_of[yes])) / negatives
        placement[~yes] = 1 - (ranks[~yes] - rankdata(score_of[~yes])) / positives
        values.append(float(placement[yes].mean()))
        influence += (placement - values[-1]) * images / np.where(yes, positives, negatives)
    if not values:
        return _Estimate(0.5, influence)
    return _Estimate(float(np.mean(values)), influence / len(values))
