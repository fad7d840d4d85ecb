"""What to do about the due times that have come: which of them run, and which were missed for good."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from service.schedules.spec import Timing

ON_TIME_S = 60.0
"""A run that is less late than this was not missed: servers restart, and transactions take their time."""
MOST_RUNS = 24


@dataclass(frozen=True)
class DuePlan:
    """Due times in order.

    Attributes:
        runs: each gets a run now.
        covered: how many other due times the last run stands for (policy ``run_once``).
        missed: the oldest due time that is left out for good, perhaps with some behind it; None if none is.
        next_run_time: when something is due next; None if nothing is ever again.
    """

    runs: tuple[float, ...]
    covered: int
    missed: float | None
    next_run_time: float | None


def plan_due(timing: Timing, next_run_time: float, now: float) -> DuePlan:
    """The plan for all due times from ``next_run_time``, which has come, up to ``now``."""
    lateness_s = ON_TIME_S if timing.misfire_policy == "skip_missed" else timing.misfire_grace_s
    end = timing.end_time if timing.end_time is not None else float("inf")
    begin = max(now - lateness_s, next_run_time)
    late = list(itertools.takewhile(lambda due: due <= now and due < end, timing.line.all_after(begin - 1e-3)))
    once = timing.misfire_policy == "run_once"
    runs = late[-1:] if once else late[-MOST_RUNS:]
    is_in_time = next_run_time in (late if once else runs)
    return DuePlan(
        runs=tuple(runs),
        covered=len(late) - 1 if once and late else 0,
        missed=None if is_in_time else next_run_time,
        next_run_time=timing.next_after(now),
    )
