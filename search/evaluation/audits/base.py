"""What an audit is: another question that is asked of a network before it is handed out. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from search.evaluation.metrics.base import AccuracyResult, Labels
from search.limit_kinds import LimitKind
from search.protocols import Measurement


class Audit(ABC):
    """Looks at finalists on the selection split. Stateless; registering one (`search.evaluation.audits`) is all it takes.

    What it finds stands among the measurements of a finalist under its name, in reports and for a budget to limit.
    """

    name: ClassVar[str]
    """Of its measurement, with the unit."""
    least: ClassVar[float] = 0.0
    """A limit below is a wrong unit."""

    @abstractmethod
    def measure(self, original: AccuracyResult, candidate: AccuracyResult, labels: Labels | None) -> Measurement | None:
        """What it finds; None where the data does not allow it.

        Args:
            original, candidate: read in the same runtime on the same images, with their logits ``(n, columns)``.
        """

    @property
    def limit_kind(self) -> LimitKind:
        """What a budget may limit."""
        return LimitKind(self.name, self.least, priced=False)
