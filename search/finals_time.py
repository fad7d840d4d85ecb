"""How long the finals of a search will take, from what was seen of its original: the trials have to leave that much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paretopress.runtime.rounds import LIMIT_S, ROUNDS
from search.pace import Pace
from search.shares import BUILD_S

EXPECTED_FINALISTS = 4
MOST_SHARE = 0.5
"""Of the wall time; a search that has less than it takes gets fewer finalists and fewer rounds."""
_ROUND_S, _RUNS_A_ROUND, _PAUSE_S, _START_S = 0.5, 40, 0.5, 2.0
_CLOSING_S = 3.0
GAP_IMAGES = 5000
"""Of the train split, for the report's gap between training and validation."""
_CANDIDATE_FILE_FACTOR = 2.0
"""A candidate's file has the nodes of its integers, too, and is exported once more as ``.pt2``."""
_LEAST_MEASURING_S = 5.0


@dataclass(frozen=True)
class FinalsTime:
    """Seconds, as they are expected from what was measured on the original.

    Attributes:
        file_s: to build and export a candidate, prove its file and read its accuracy on the selection split.
        latency_ms: of one run on the target; 0 where nothing is measured.
        measure_limit_s: for which rounds are added at most.
        closing_s: to read the test split.
        gaps_s: to read what only the report's gaps need; they are left out where the time is up.
    """

    file_s: float = 0.0
    latency_ms: float = 0.0
    closing_s: float = 0.0
    gaps_s: float = 0.0
    measure_limit_s: float = LIMIT_S

    @staticmethod
    def of(pace: Pace, images: Mapping[str, int], measure_limit_s: float = LIMIT_S) -> FinalsTime:
        """From what was measured on the original.

        Args:
            images: of every split, by its name.
        """
        return FinalsTime(
            file_s=_CANDIDATE_FILE_FACTOR * pace.file_s + BUILD_S + pace.image_s * images["selection"],
            latency_ms=pace.latency_ms,
            measure_limit_s=measure_limit_s,
            closing_s=2 * pace.image_s * images["test"],
            gaps_s=2 * pace.image_s * min(images["train"], GAP_IMAGES),
        )

    def measuring_s(self, models: int) -> float:
        """The least rounds of so many files."""
        if not self.latency_ms:
            return 0.0
        return _START_S + ROUNDS * (models * max(_ROUND_S, _RUNS_A_ROUND * self.latency_ms / 1000) + _PAUSE_S)

    def after_export_s(self, models: int) -> float:
        """From the last export to the report."""
        return self.measuring_s(models) + self.closing_s + self.gaps_s + _CLOSING_S

    @property
    def least_s(self) -> float:
        """With a single finalist, and nothing that can be left out."""
        return self.file_s + self.after_export_s(2) - self.gaps_s

    def reserved_s(self, limit_s: float) -> float:
        """What trials leave of a wall time for the finals."""
        expected = EXPECTED_FINALISTS * self.file_s + self.after_export_s(EXPECTED_FINALISTS + 1)
        return min(expected, MOST_SHARE * limit_s)

    def measuring_limit_s(self, left_s: float) -> float:
        """How long rounds may be added, with so much of the wall time left."""
        return min(self.measure_limit_s, max(left_s - self.closing_s - self.gaps_s - _CLOSING_S, _LEAST_MEASURING_S))
