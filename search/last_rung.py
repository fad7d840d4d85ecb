"""The last rung: what trials leave of the time trains the most promising candidates on, one after the other.

Which ones are promising is judged by what the last rung did to those before: their drop before and after says what is to be
expected of the next one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.limits import SAFE_SHARE, drop_limit, priced_limits
from search.pareto import dominates
from search.spec import SearchSpec

if TYPE_CHECKING:
    from search.pricing import Price

FEW = 5
LEAST_STEPS = 20
_FIRST_SHARES = 2
"""The one wanted most gets so many shares of the time, the others one each; of no more shares than these all are alike."""
_ALIKE = 1.03
"""Latencies and sizes closer than this are no reason to train both of two candidates."""
_WORTH_STEPS = 200
"""That a candidate gets at least, before another one gets a turn."""
_FIRST_GUESS, _GUESSED_POINTS = 0.5, 4.0
"""What training leaves of a drop before any candidate has shown it, and how many points of drops that guess counts as."""
_TELLING_POINTS, _TELLING_SHARE = 0.3, 0.5
"""What readings of some thousand images tell apart, in points, and which share of a tight limit: who is expected to miss the limit
on the drop by no more than the best and this is not behind it."""
_SETTLED_POINTS = 0.2
"""Who lost no more in all rungs has nothing that training could give back."""
_LEAST_COST = 1e-9
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

    def steps(self, rung: int, step_s: float | None, done: int, left_s: float, left: int = FEW) -> int:
        """Steps of the last rung of a candidate when so many are done; 0 where too little time is left.

        Args:
            rung: the last one before that its checkpoint holds, -1 if there is none: it makes up the others first.
            left: candidates that may still be trained, this one among them.
        """
        step_s = step_s or self.step_s
        missing = sum(self.rung_steps[rung + 1 :])
        worth = min(self.most_steps, max(sum(self.rung_steps), _WORTH_STEPS)) + missing
        few = max(1, min(FEW - done, left))
        shares = few if done or few == 1 else few - 1 + _FIRST_SHARES
        shares = max(1, min(shares, int(left_s * _USED_SHARE / max(worth * step_s, 1e-9))))
        own = 1 if done or shares <= _FIRST_SHARES else _FIRST_SHARES
        steps = min(self.most_steps, int(left_s * _USED_SHARE * own / shares / max(step_s, 1e-9)) - missing)
        return steps if steps >= min(LEAST_STEPS, self.most_steps) else 0


def used_s(steps: int, step_s: float) -> float:
    """Seconds of the last rung that so many steps take, building and reading included."""
    return steps * step_s / _USED_SHARE


def recovery(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """What training leaves of a drop: of all points that there were, the share that stayed, with a guess among them.

    A candidate that lost 0.2 points and is whole again says little of one that lost thirty: it counts as the 0.2 points it lost.

    Args:
        before, after: drops in points, by trial: of a rung and of a later one.
    """
    seen = [one for one in after if before.get(one, 0.0) > 0]
    stayed = sum(min(max(after[one], 0.0), before[one]) for one in seen)
    return (_FIRST_GUESS * _GUESSED_POINTS + stayed) / (_GUESSED_POINTS + sum(before[one] for one in seen))


@dataclass(frozen=True)
class Prospect:
    """A candidate that may be trained on.

    Attributes:
        drop: in points, as it is expected without the last rung.
        price: predicted; what was measured of some could not be compared.
        is_read: whether the drop is of the last rung before, and not expected.
    """

    number: int
    drop: float
    price: Price
    is_read: bool = True


def settled(prospects: Sequence[Prospect], spec: SearchSpec) -> list[Prospect]:
    """Those that have lost next to nothing and fit: as good as trained, while others are left.

    433 and 189 steps of a demo's last rung went to two candidates at 0.07 and 0.17 points, and left them there.
    """
    limit = drop_limit(spec.budget)
    most = min(_SETTLED_POINTS, SAFE_SHARE * limit.most) if limit else _SETTLED_POINTS
    found = [one for one in prospects if one.is_read and one.drop <= most]
    return found if len(found) < len(prospects) else []


def most_promising(
    prospects: Sequence[Prospect], share: float, spec: SearchSpec, trained: Sequence[Prospect] = (), wanted_most: bool = True
) -> Prospect | None:
    """The one to train next: least over the limits by what is expected of it, as far as readings tell, then what none of those
    before dominates.

    Of these the one that the request's preference wants most, or the one that costs what none of those before does: so the front
    gets its middle and its far end.

    Args:
        share: what the last rung leaves of a drop, see `recovery`.
        trained: those before, with the drops that are left of theirs: what is no better in accuracy, and hardly in anything else,
            adds nothing to the front.
        wanted_most: whether the preference decides. It always does where no limit on the drop says which ones are worth anything.
    """
    limit = drop_limit(spec.budget)
    telling = min(_TELLING_POINTS, _TELLING_SHARE * limit.most) if limit else 0.0

    def expected(prospect: Prospect) -> float:
        return prospect.drop * (share if prospect.drop > 0 else 1.0)

    def excess(prospect: Prospect) -> float:
        return max(expected(prospect) - SAFE_SHARE * limit.most, 0.0) if limit else 0.0

    least = min(map(excess, prospects), default=0.0)
    before = [(one.drop, *_costs(one, spec)) for one in trained]

    def key(prospect: Prospect) -> tuple[float, ...]:
        drop, named = expected(prospect), prospect.price.named()
        over = max(excess(prospect) - least - telling, 0.0)
        priced = max((named[one.name] / one.most - 1 for one in priced_limits(spec.budget)), default=0.0)
        latency, size = _costs(prospect, spec)
        dominated = any(dominates(one, (drop, _ALIKE * latency, _ALIKE * size)) for one in before)
        apart = 0.0 if wanted_most or limit is None else _apart(prospect, trained, spec)
        wanted = (drop, latency) if spec.preference == "most_accurate" else (_wanted_cost(prospect, spec), drop)
        return (round(max(priced, 0.0), 3), over, float(dominated), -apart, *wanted)

    return min(prospects, key=key, default=None)


def _costs(prospect: Prospect, spec: SearchSpec) -> tuple[float, float]:
    """Latency, and the size that the budget names."""
    named = prospect.price.named()
    return named["latency_ms"], named[spec.budget.size_name]


def _wanted_cost(prospect: Prospect, spec: SearchSpec) -> float:
    """What the preference wants little of."""
    latency, size = _costs(prospect, spec)
    return {"smallest": size, "balanced": latency * size}.get(spec.preference, latency)


def _apart(prospect: Prospect, trained: Sequence[Prospect], spec: SearchSpec) -> float:
    """How far its cost is from the nearest of those before, as a logarithm; 0 where there is none."""
    own, *others = (math.log(max(_wanted_cost(one, spec), _LEAST_COST)) for one in (prospect, *trained))
    return min((abs(own - other) for other in others), default=0.0)
