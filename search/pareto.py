"""Which candidates are on the front, which one is best, and which is nearest when none fits. Pure functions on records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

from search.protocols import CandidateRecord
from search.spec import Budget, Preference

Split = Literal["validation", "selection"]
OBJECTIVES = ("latency_ms", "onnx_size_bytes")


def broken_limits(record: CandidateRecord, budget: Budget, split: Split = "selection") -> dict[str, float]:
    """Each limit that the candidate breaks, with by how much, in the limit's own unit; empty means feasible.

    A measured latency is held against the limit by its upper 95% bound (contract 3). A measurement that is missing breaks
    its limit by infinity: an unknown number never wins.
    """
    values: dict[str, tuple[float | None, float | None]] = {
        "latency_ms": (_upper(record, "latency_ms"), budget.latency_ms),
        budget.size_name: (_upper(record, budget.size_name), budget.size_bytes),
        "macs": (_upper(record, "macs"), budget.macs),
        "max_accuracy_drop_points": (decided_drop_points(record, budget, split), budget.max_accuracy_drop_points),
    }
    broken: dict[str, float] = {}
    for name, (value, limit) in values.items():
        if limit is None:
            continue
        if value is None:
            broken[name] = float("inf")
        elif value > limit:
            broken[name] = value - limit
    return broken


def decided_drop_points(record: CandidateRecord, budget: Budget, split: Split) -> float | None:
    """The accuracy drop that the budget decides on: the point estimate, or the upper bound where a confidence was asked for."""
    drop = record.drop_points.get(split)
    if drop is None:
        return None
    estimate, _, high = drop
    if budget.confidence <= 0:
        return estimate
    # The stored interval is two-sided 95% (z = 1.96); the one-sided bound at another confidence scales its half width.
    return estimate + (high - estimate) * NormalDist().inv_cdf(budget.confidence) / 1.959964


def objectives(record: CandidateRecord, split: Split = "selection") -> tuple[float, ...]:
    """What is minimised: accuracy drop in points, latency, size. Missing numbers are infinite."""
    drop = record.drop_points.get(split)
    return (drop[0] if drop else float("inf"), *(_value(record, name) for name in OBJECTIVES))


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
    ranks = non_dominated_ranks([objectives(r, split) for r in feasible])
    members = [record for record, rank in zip(feasible, ranks, strict=True) if rank == 0]
    return sorted(members, key=lambda r: (_value(r, "latency_ms"), r.candidate_id))


def pick(
    records: Sequence[CandidateRecord], budget: Budget, preference: Preference, split: Split = "selection"
) -> CandidateRecord | None:
    """The best of the front by the request's preference; None when nothing is feasible."""
    members = front(records, budget, split)
    if not members:
        return None
    return min(members, key=lambda r: (_preference_key(r, members, preference, split), r.candidate_id))


def nearest(records: Sequence[CandidateRecord], budget: Budget, split: Split = "selection") -> CandidateRecord | None:
    """The candidate whose worst relative excess over a limit is smallest; never empty while there is any candidate."""
    living = [r for r in records if r.state != "failed"]
    if not living:
        return None
    return min(living, key=lambda r: (relative_excess(broken_limits(r, budget, split), budget), r.candidate_id))


def relative_excess(broken: Mapping[str, float], budget: Budget) -> float:
    """The worst excess over a limit, relative to the limit (accuracy: relative to one point at least); 0 when feasible."""
    limits: dict[str, float] = {"latency_ms": budget.latency_ms or 1.0, "macs": float(budget.macs or 1)}
    limits[budget.size_name] = float(budget.size_bytes or 1)
    limits["max_accuracy_drop_points"] = max(budget.max_accuracy_drop_points or 0.0, 1.0)
    return max((excess / limits[name] for name, excess in broken.items()), default=0.0)


def _preference_key(
    record: CandidateRecord, members: Sequence[CandidateRecord], preference: Preference, split: Split
) -> tuple[float, ...]:
    drop, latency, size = objectives(record, split)
    if preference == "fastest":
        return latency, drop, size
    if preference == "smallest":
        return size, latency, drop
    if preference == "most_accurate":
        return drop, latency, size
    columns = list(zip(*(objectives(m, split) for m in members), strict=True))
    spans = [max(max(column) - min(column), 1e-12) for column in columns]
    scaled = [(v - min(c)) / s for v, c, s in zip((drop, latency, size), columns, spans, strict=True)]
    return (sum(s * s for s in scaled),)


def _value(record: CandidateRecord, name: str) -> float:
    measurement = record.measurements.get(name)
    return measurement.value if measurement else float("inf")


def _upper(record: CandidateRecord, name: str) -> float | None:
    measurement = record.measurements.get(name)
    return measurement.value + measurement.spread if measurement else None
