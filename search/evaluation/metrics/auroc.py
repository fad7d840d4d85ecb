"""Mean over classes of the area under the ROC curve."""

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
)

if TYPE_CHECKING:
    from techniques.head import Task


class Auroc(Metric):
    """One class against the rest; images with several labels are ranked by each label alone."""

    name = "auroc"

    def score(self, logits: Logits, labels: Labels | None, teacher: Logits | None, task: Task) -> AccuracyResult:
        """See the base."""
        target, logits = checked_labels(logits, labels, self.name), finite(logits)
        return estimated(self.name, auroc(logits, target, task), hits(logits, target, 1), logits)

    def chance(self, labels: Labels) -> float:
        """Any order."""
        return 0.5


def auroc(logits: Logits, target: Labels, task: Task) -> Estimate:
    """One against the rest, averaged over the classes that both occur and do not occur on some image.

    An image's influence comes from its placement among the images of the other side (DeLong et al. 1988, equations 3-6). One
    whose outputs are not finite is on the wrong side of all others.
    """
    from scipy.special import log_softmax
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
        return Estimate(0.5, influence)
    return Estimate(float(np.mean(values)), influence / len(values))
