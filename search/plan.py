"""The plan of a search: which candidates, rungs and finalists its wall time holds, and what each phase takes.

The same arithmetic decides how long candidates are trained, tells a user before anything is queued, and is done again as the search
goes on: what is over stands with what it took, and what is to come goes by what the trials took so far. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from paretopress.runtime.rounds import LIMIT_S
from search.effort_plan import BATCH_SIZE, EffortCosts, expected_trials, least_share, plan_effort, teacher_views, training_effort
from search.finals_time import EXPECTED_FINALISTS, FinalsTime
from search.last_rung import FEW, LastRung, used_s
from search.pace import Pace, PaceSource
from search.shares import BUILD_S, GRACE_SHARE, RAY_START_S, SENSITIVITY_SHARE, last_share
from search.spec import Effort
from techniques.effort import TrainingEffort

CALIBRATION, BASELINE, SENSITIVITY, SEARCH, LAST_RUNG, FINALS = (
    "calibration", "baseline", "sensitivity", "search", "last rung", "finalists",
)  # fmt: skip
ORDER = (BASELINE, SENSITIVITY, SEARCH, LAST_RUNG, FINALS)
"""The phases within the wall time."""


@dataclass(frozen=True)
class PlannedPhase:
    """One phase. ``seconds`` are expected, or what it took once it is ``over``."""

    name: str
    seconds: float
    message: str
    over: bool = False


@dataclass(frozen=True)
class SearchPlan:
    """What is going to be done, as far as it is known.

    Attributes:
        trials: candidates that the wall time holds, of those that were asked for.
        effort: how long each of them is trained at most.
        last_candidates, last_steps: how many the last rung trains on, and for how many steps on average.
        finalists: how many are expected to be exported and measured.
        source: where the seconds come from.
    """

    phases: tuple[PlannedPhase, ...]
    trials: int
    effort: TrainingEffort
    last_candidates: int
    last_steps: int
    finalists: int
    source: PaceSource

    @property
    def duration_s(self) -> float:
        """All phases together."""
        return sum(phase.seconds for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)

    @staticmethod
    def read(data: Mapping[str, Any] | None) -> SearchPlan | None:
        """What `to_json` gave; None where there is none, or one of another version."""
        try:
            if data is None:
                return None
            effort = TrainingEffort(**{**data["effort"], "rung_steps": tuple(data["effort"]["rung_steps"])})
            phases = tuple(PlannedPhase(**phase) for phase in data["phases"])
            plan = SearchPlan(**{**data, "phases": phases, "effort": effort})
            return plan if plan.source in get_args(PaceSource) and math.isfinite(plan.duration_s) else None
        except (KeyError, TypeError):
            return None

    def sentence(self) -> str:
        """In a line, for events."""
        phases = ", ".join(f"{phase.name} {phase.seconds:.0f} s" for phase in self.phases if not phase.over)
        return f"plan: {self.trials} candidates; {phases}"


@dataclass(frozen=True)
class Known:
    """What is known of a search, before it or while it goes on.

    Attributes:
        images: of every split, by its name.
        trains: whether any technique that it may use trains.
        calibration_s: what calibrating the target takes first; no part of the wall time.
        parallel: trials at once.
        effort: as it was decided; None before.
        elapsed_s: of the wall time; where ``over`` is empty it is what opening the original has taken.
        over: phases that have ended, with what they took.
        trials, trials_s: done so far, and what the search has spent on them.
        trials_until_s: of the wall time, when trials leave it to the last rung; None before that was decided.
        last_steps: of each candidate that the last rung has trained, once that is over.
        finalists: that were measured, once that is over.
    """

    pace: Pace
    images: Mapping[str, int]
    trains: bool
    calibration_s: float = 0.0
    measure_limit_s: float = LIMIT_S
    parallel: int = 1
    effort: TrainingEffort | None = None
    elapsed_s: float = 0.0
    over: Mapping[str, float] = field(default_factory=dict)
    trials: int = 0
    trials_s: float = 0.0
    trials_until_s: float | None = None
    last_steps: tuple[int, ...] = ()
    finalists: int | None = None

    @property
    def finals_time(self) -> FinalsTime:
        """Seconds of the finals."""
        return FinalsTime.of(self.pace, self.images, self.measure_limit_s)

    def to_come(self, phase: str, expected_s: float) -> float:
        """Seconds of a phase that are still to be spent."""
        return 0.0 if phase in self.over else expected_s


def effort_costs(asked: TrainingEffort, effort: Effort, known: Known) -> EffortCosts:
    """What one trial costs, and what the wall time leaves for all of them before the last rung."""
    left_s = _training_s(asked, effort, known) * (1 - (last_share(True) if asked.last_steps else 0.0))
    return EffortCosts(known.pace.step_s, _untrained_s(known, len(asked.rung_steps)), left_s)


def _training_s(effort_of_one: TrainingEffort, effort: Effort, known: Known) -> float:
    """What the wall time leaves for trials and last rung together, from now on."""
    limit_s = effort.max_wall_time_s
    left_s = limit_s * (1 - GRACE_SHARE) - known.finals_time.reserved_s(limit_s) - known.elapsed_s
    baseline_s = _teacher_s(effort_of_one, known) + (0.0 if known.elapsed_s else _opening_s(known))
    left_s -= known.to_come(BASELINE, baseline_s) + known.to_come(SENSITIVITY, SENSITIVITY_SHARE * limit_s)
    return left_s - known.to_come(SEARCH, 0.0 if known.trials else RAY_START_S)


def _opening_s(known: Known) -> float:
    """The original: opened, exported, read and measured."""
    pace = known.pace
    return pace.open_s + pace.file_s + pace.image_s * known.images["validation"] + pace.measuring_s


def _teacher_s(asked: TrainingEffort, known: Known) -> float:
    """The original's outputs on the training images, where anything is trained."""
    if not any(asked.stages):
        return 0.0
    rung_epochs = sum(asked.rung_steps) * asked.batch_size / max(known.images["train"], 1)
    return known.pace.image_s * known.images["train"] * teacher_views(2 * rung_epochs)


def _sensitivity_s(effort: Effort, known: Known) -> float:
    """As a search before has taken, within what is kept for it."""
    most_s = SENSITIVITY_SHARE * effort.max_wall_time_s
    return most_s if known.pace.sensitivity_s is None else min(known.pace.sensitivity_s, most_s)


def _untrained_s(known: Known, readings: float) -> float:
    return BUILD_S + known.pace.image_s * known.images["validation"] * readings


def plan_search(effort: Effort, known: Known) -> SearchPlan:
    """The plan by what is known now.

    Where the target is not this machine's, a measured phase takes nothing: its pace has no latency.
    """
    asked = training_effort(effort, known.images["train"], known.trains)
    costs = effort_costs(asked, effort, known)
    decided = known.effort or plan_effort(asked, effort.max_trials, costs, least_share(asked, effort.max_epochs))
    left_s, trial_s = max(_training_s(asked, effort, known), 0.0), _trial_s(effort.max_trials, decided, known)
    share = last_share(any(decided.rung_steps)) if decided.last_steps else 0.0
    trials = known.trials
    if SEARCH not in known.over:
        room_s = left_s * (1 - share) if known.trials_until_s is None else known.trials_until_s - known.elapsed_s
        trials = min(effort.max_trials, max(1, known.trials + int(max(room_s, 0.0) / trial_s)))
    more_s = (trials - known.trials) * trial_s
    last = (
        list(known.last_steps)
        if LAST_RUNG in known.over
        else _last_rung(decided, known.pace.step_s, left_s - more_s, min(FEW, trials))
    )
    finalists = min(EXPECTED_FINALISTS, trials) if known.finalists is None else known.finalists
    here = "measured" if known.pace.latency_ms else "predicted"
    expected = {
        CALIBRATION: (known.calibration_s, "the target's speed, once for all searches: no part of the wall time"),
        BASELINE: (_opening_s(known) + _teacher_s(asked, known), f"the original: accuracy on the given data, latency {here}"),
        SENSITIVITY: (_sensitivity_s(effort, known), "what each single compression costs and saves"),
        SEARCH: (
            (0.0 if known.trials else RAY_START_S) + known.trials_s + more_s,
            f"{trials} of at most {effort.max_trials} candidates, {_trained(decided)}",
        ),
        LAST_RUNG: (used_s(sum(last), known.pace.step_s), f"{len(last)} are trained on, {_mean(last)} steps on average"),
        FINALS: (known.finals_time.reserved_s(effort.max_wall_time_s), f"about {finalists} are exported and read, latency {here}"),
    }
    phases = tuple(
        PlannedPhase(name, round(known.over.get(name, seconds), 1), message, name in known.over)
        for name, (seconds, message) in expected.items()
        if seconds or known.over.get(name)
    )
    return SearchPlan(phases, trials, decided, len(last), _mean(last), finalists, known.pace.source)


def _trial_s(most_trials: int, effort: TrainingEffort, known: Known) -> float:
    """Of a trial to come, on average: as those before, or as it was measured on the original."""
    if known.trials:
        # What was spent on them begins with the start of their runtime.
        return max((known.trials_s - RAY_START_S) / known.trials, _untrained_s(known, 1) / known.parallel)
    counts = expected_trials(most_trials, len(effort.rung_steps))
    steps = sum(count * steps for count, steps in zip(counts, effort.rung_steps, strict=True)) / most_trials
    return (_untrained_s(known, sum(counts) / most_trials) + known.pace.step_s * steps) / known.parallel


def _trained(effort: TrainingEffort) -> str:
    rungs = [f"{steps}" for steps in effort.rung_steps if steps]
    if not rungs:
        return "compared untrained"
    return f"the better half trained for {' + '.join(rungs)} steps of {BATCH_SIZE} images"


def _last_rung(effort: TrainingEffort, step_s: float, left_s: float, most: int) -> list[int]:
    """Steps of each candidate that the last rung is expected to train on."""
    if not effort.last_steps:
        return []
    last, steps = LastRung(effort.last_steps, effort.rung_steps, step_s, 0.0), list[int]()
    while len(steps) < most:
        time_s = left_s - used_s(sum(steps), step_s)
        one = last.steps(len(effort.rung_steps) - 1, step_s, len(steps), time_s, most - len(steps))
        if not one:
            break
        steps.append(one)
    return steps


def _mean(steps: list[int]) -> int:
    return round(sum(steps) / len(steps)) if steps else 0
