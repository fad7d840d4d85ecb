"""How good a network is on a split, with the doubt: results, paired drops, and the check of the baseline.

Accuracies are fractions, drops are percentage points. What is counted stands in `search.evaluation.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from search.errors import BaselineError, SearchError
from search.evaluation.data import ImageFunction, SplitView
from search.evaluation.metrics import METRICS
from search.evaluation.metrics.base import AccuracyResult, Estimate, Hits, Labels, Logits
from search.preprocessing import Preprocessing
from techniques.head import Task


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
    metric: str = "top1",
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
    logits: Logits, labels: Labels | None, metric: str = "top1", teacher: Logits | None = None, task: Task = "classes"
) -> AccuracyResult:
    """Score logits ``(n, columns)``, see `Metric.score`."""
    return METRICS[metric].score(logits, labels, teacher, task)


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
    if (labels is None and not METRICS[original.metric].label_free) or len(original.logits) != len(candidate.logits):
        raise ValueError("pairs need the same labelled images")
    drop = Estimate(original.value - candidate.value, original.influence - candidate.influence)
    half = drop.half_width(confidence)
    return 100 * drop.value, 100 * (drop.value - half), 100 * (drop.value + half)


def near_chance(value: float, labels: Labels, metric: str) -> bool:
    """Whether a network is no better than chance: within three standard errors, or a tenth of the way to perfect."""
    chance = METRICS[metric].chance(labels)
    if chance == 0.0 or chance >= 1.0:
        return False
    return value <= chance + max(_noise(chance, len(labels)), 0.1 * (1 - chance))


def _noise(chance: float, images: int) -> float:
    return 3 * math.sqrt(chance * (1 - chance) / images)


def images_needed(value: float, labels: Labels, metric: str) -> int:
    """How many images it takes to tell a network of this value from chance; 0 where these are enough, or it is no better."""
    chance = METRICS[metric].chance(labels)
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
        chance = METRICS[result.metric].chance(labels)
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
