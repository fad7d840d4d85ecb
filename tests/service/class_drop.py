"""A toy audit as somebody else would bring it: one file, and one registration by an entry point. Not part of Paretopress."""

from __future__ import annotations

import numpy as np

from search.evaluation.audits.base import Audit
from search.evaluation.metrics.base import AccuracyResult, Labels
from search.protocols import Measurement


class ClassDrop(Audit):
    """Points that the class loses which loses most."""

    name = "class_drop_points"

    def measure(self, original: AccuracyResult, candidate: AccuracyResult, labels: Labels | None) -> Measurement | None:
        """See the base."""
        if labels is None:
            return None
        drops = [(original.correct[labels == c].mean() - candidate.correct[labels == c].mean()) * 100 for c in np.unique(labels)]
        return Measurement(float(max(drops)), "measured")
