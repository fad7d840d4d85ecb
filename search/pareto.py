"""Which candidates are on the front, which one is best, and which is nearest when none fits. Pure functions on records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from search.limits import SAFE_SHARE, Split, broken_limits, drop_limit, relative_excess
from search.protocols import CandidateRecord
from search.spec import Budget, Preference, SearchSpec

MAX_FINALISTS = 8
WANTED = 2
"""So many are those that the preference wants most; it may be wrong about one."""


def objectives(record: CandidateRecord, budget: Budget, split: Split = "selection") -> tuple[float, ...]:
    """What is minimised: accuracy drop in points, latency, and the size that the budget names. Missing numbers are infinite."""
    drop = record.drop_points.get(split)
    return (drop[0] if drop else float("inf"), _value(record, "latency_ms"), _value(record, budget.size_name))


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is no worse in every objective and better in one (all minimised)."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def non_dominated_ranks(points: Sequence[Sequence[float]]) -> list[int]:
    """Rank of each point: 0 for the front, 1 for the front once those are gone, and so on (Deb 2002, section III-A)."""
    ranks = [-1] * len(points)
    left = set(range(len(points)))
    rank = 0
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left if j != i)}
        for i in front:
            ranks[i] = rank
        left -= front
        rank += 1
    return ranks


def front(records: Sequence[CandidateRecord], budget: Budget, split: Split = "selection") -> list[CandidateRecord]:
    """The non-dominated feasible candidates, fastest first."""
    feasible = [r for r in records if r.state != "failed" and not broken_limits(r, budget, split)]
    ranks = non_dominated_ranks([objectives(r, budget, split) for r in feasible])
    members = [record for record, rank in zip(feasible, ranks, strict=True) if rank == 0]
    return sorted(members, key=lambda r: (_value(r, "latency_ms"), r.candidate_id))


def pick(
    records: Sequence[CandidateRecord], budget: Budget, preference: Preference, split: Split = "selection"
) -> CandidateRecord | None:
    """The best of the front by the request's preference; None when nothing is feasible."""
    members = front(records, budget, split)
    if not members:
        return None
    key = _preference_key(members, budget, preference, split)
    return min(members, key=lambda r: (key(r), r.candidate_id))


def choose_finalists(records: Sequence[CandidateRecord], spec: SearchSpec, limit: int = MAX_FINALISTS) -> list[CandidateRecord]:
    """Candidates worth exporting, those first whose files are wanted most where the time ends before all are made.

    Nearest to feasible on validation first, then those that are not just so (another split says something else), then by
    non-dominated rank, then by the request's preference. Where a limit on the drop says what is worth anything, only the first few
    of the front are what the preference wants most; then comes what is farthest from those before, so that a front that is cut
    off has its ends: of a demo's eight, five were made, all within a fifth of the latency, and two of them were on the front.
    """
    budget = spec.budget
    split: Split = "validation"
    living = [_as_predicted(r) for r in records if r.state != "failed" and r.drop_points.get(split)]
    ranks = non_dominated_ranks([objectives(r, budget, split) for r in living])
    rank_of = {r.candidate_id: rank for r, rank in zip(living, ranks, strict=True)}
    drop = drop_limit(budget)
    safe = replace(budget, max_accuracy_drop_points=SAFE_SHARE * drop.most) if drop else budget
    members = [r for r in living if not broken_limits(r, budget, split)] or living
    wanted = _preference_key(members, budget, spec.preference, split)

    def key(record: CandidateRecord) -> tuple[float, ...]:
        excess = [round(relative_excess(broken_limits(record, one, split), one), 3) for one in (budget, safe)]
        return (*excess, rank_of[record.candidate_id], *wanted(record))

    keys = {record.candidate_id: key(record) for record in living}
    ordered = sorted(living, key=lambda r: keys[r.candidate_id])
    # A key begins with both excesses and the rank: those of the front come first, if any fits.
    leading = [r for r in ordered if keys[r.candidate_id][:3] == (0.0, 0.0, 0.0)] if drop else []
    by_id = {record.candidate_id: record for record in records}
    return [by_id[record.candidate_id] for record in [*_spread(leading, budget, limit), *ordered[len(leading) :]][:limit]]


def _spread(ordered: Sequence[CandidateRecord], budget: Budget, limit: int) -> list[CandidateRecord]:
    """The first few, then always the one whose latency and size are farthest from all before; ``limit`` of them."""
    if len(ordered) <= WANTED:
        return list(ordered)
    chosen, left = list(ordered[:WANTED]), dict(enumerate(ordered[WANTED:]))
    nearest_of = {index: min(_apart(one, other, budget) for other in chosen) for index, one in left.items()}
    while left and len(chosen) < limit:
        index = max(left, key=lambda one: nearest_of[one])
        chosen.append(left.pop(index))
        nearest_of = {one: min(nearest_of[one], _apart(left[one], chosen[-1], budget)) for one in left}
    return chosen


def _apart(a: CandidateRecord, b: CandidateRecord, budget: Budget) -> float:
    """How many times apart latency and size are, as logarithms; what is not known of one is not apart."""
    pairs = zip(objectives(a, budget)[1:], objectives(b, budget)[1:], strict=True)
    return sum(abs(math.log(x / y)) for x, y in pairs if 0 < x < math.inf and 0 < y < math.inf)


def _as_predicted(record: CandidateRecord) -> CandidateRecord:
    """All by their predictions, those that were measured before, too, or they could not be compared; and by the estimate: an upper
    bound would order candidates by the predictor's doubt."""
    measured = record.measurements
    predicted = {**measured, "latency_ms": measured.get("predicted_latency_ms", measured["latency_ms"])}
    return replace(record, measurements={name: replace(m, spread=0.0) for name, m in predicted.items()})


def nearest(records: Sequence[CandidateRecord], budget: Budget, split: Split = "selection") -> CandidateRecord | None:
    """The candidate whose worst relative excess over a limit is smallest; never empty while there is any candidate."""
    living = [r for r in records if r.state != "failed"]
    if not living:
        return None
    return min(living, key=lambda r: (relative_excess(broken_limits(r, budget, split), budget), r.candidate_id))


def _preference_key(
    members: Sequence[CandidateRecord], budget: Budget, preference: Preference, split: Split
) -> Callable[[CandidateRecord], tuple[float, ...]]:
    """What to sort by, the most wanted first; a balance is that of the members' extremes, of which there must be some."""
    columns = list(zip(*(objectives(m, budget, split) for m in members), strict=True))
    lowest, spans = [min(column) for column in columns], [max(max(column) - min(column), 1e-12) for column in columns]

    def key(record: CandidateRecord) -> tuple[float, ...]:
        drop, latency, size = objectives(record, budget, split)
        if preference == "fastest":
            return latency, drop, size
        if preference == "smallest":
            return size, latency, drop
        if preference == "most_accurate":
            return drop, latency, size
        scaled = [(v - low) / span for v, low, span in zip((drop, latency, size), lowest, spans, strict=True)]
        return (sum(s * s for s in scaled),)

    return key


def _value(record: CandidateRecord, name: str) -> float:
    measurement = record.measurements.get(name)
    return measurement.value if measurement else float("inf")
