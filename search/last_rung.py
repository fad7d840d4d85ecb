"""The last rung: what trials leave of the time trains the most promising candidates on, one after the other.

Which ones are promising is judged by what the last rung did to those before: their drop before and after says what is to be
expected of the next one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.limits import drop_limit, priced_limits
from search.pareto import OBJECTIVES
from search.protocols import CandidateRecord
from search.spec import SearchSpec

FEW = 6
LEAST_STEPS = 20
_FIRST_GUESS = 0.5
"""Of a drop, before any candidate has shown what the last rung leaves of it."""
_MARGIN = 0.85
"""Of the limit on the drop: an expectation just within it is missed half of the time."""
_USED_SHARE = 0.9
"""Of the time: the rest is for building and reading."""


@dataclass(frozen=True)
class LastRung:
    """How the last rung of a search may be spent.

    Attributes:
        most_steps: of one candidate.
        rung_steps: of the rungs before, without it.
        step_s: seconds of a step, where a candidate has not shown its own.
        ends_at: of `time.monotonic`: when the time for training is up.
    """

    most_steps: int
    rung_steps: tuple[int, ...]
    step_s: float
    ends_at: float

    def steps(self, record: CandidateRecord, step_s: float | None, done: int, left_s: float) -> int:
        """Steps of the last rung of a candidate when so many are done; 0 where too little time is left.

        One that has not been through all rungs before makes these up first.
        """
        step_s = step_s or self.step_s
        missing = sum(self.rung_steps[record.rung + 1 :])
        worth = min(self.most_steps, max(sum(self.rung_steps), LEAST_STEPS)) + missing
        to_come = max(1, min(FEW - done, int(left_s * _USED_SHARE / max(worth * step_s, 1e-9))))
        steps = min(self.most_steps, int(left_s * _USED_SHARE / to_come / max(step_s, 1e-9)) - missing)
        return steps if steps >= min(LEAST_STEPS, self.most_steps) else 0


def recovery(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """What the last rung leaves of a drop: the median over those that had one, or a guess.

    Args:
        before, after: drops in points, by trial.
    """
    shares = [min(max(after[one] / before[one], 0.0), 1.0) for one in after if before.get(one, 0.0) > 0]
    return statistics.median(shares) if shares else _FIRST_GUESS


def most_promising(
    records: Sequence[CandidateRecord], expected: Mapping[int, float], share: float, spec: SearchSpec
) -> CandidateRecord | None:
    """The candidate to train next: least over the limits by what is expected of it, then best by the request\'s preference.

    Args:
        records: those that may be.
        expected: trial -> drop in points without the last rung.
        share: what the last rung leaves of a drop, see `recovery`.
    """
    limit = drop_limit(spec.budget)

    def key(record: CandidateRecord) -> tuple[float, ...]:
        drop = expected[record.trial_number] * (share if expected[record.trial_number] > 0 else 1.0)
        over = max(drop - _MARGIN * limit.most, 0.0) if limit else 0.0
        priced = max((one.estimated_excess(record) for one in priced_limits(spec.budget)), default=0.0)
        latency, size = (record.measurements[name].value for name in OBJECTIVES)
        wanted = {"fastest": (latency, drop), "smallest": (size, drop), "most_accurate": (drop, latency)}
        return (round(max(priced, 0.0), 3), over, *wanted.get(spec.preference, (latency * size, drop)))

    return min(records, key=key, default=None)
