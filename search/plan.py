"""The plan of a search: which candidates, rungs and finalists its wall time holds, and what each phase takes.

The same arithmetic decides how long candidates are trained, tells a user before anything is queued, and is done again as the search
goes on: what is over stands with what it took, and what is to come goes by what the trials took so far. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from paretopress.runtime.rounds import LIMIT_S
from search.effort_plan import BATCH_SIZE, EffortCosts, expected_trials, least_share, plan_effort, teacher_views, training_effort
from search.finals_time import EXPECTED_FINALISTS, FinalsTime
from search.last_rung import FEW, LastRung, used_s
from search.pace import Pace, PaceSource
from search.shares import BUILD_S, GRACE_SHARE, RAY_START_S, SENSITIVITY_SHARE, last_share
from search.spec import Effort
from techniques.effort import TrainingEffort

PHASE = "plan"
CALIBRATION, BASELINE, SENSITIVITY, SEARCH, LAST_RUNG, FINALS = (
    "calibration",
    "baseline",
    "sensitivity",
    "search",
    "last rung",
    "finalists",
)


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
        last_candidates, last_steps: how many the last rung trains on, and for how many steps each.
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
    def from_json(data: Mapping[str, Any]) -> SearchPlan:
        """What `to_json` gave."""
        effort = TrainingEffort(**{**data["effort"], "rung_steps": tuple(data["effort"]["rung_steps"])})
        return SearchPlan(**{**data, "phases": tuple(PlannedPhase(**phase) for phase in data["phases"]), "effort": effort})

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
        effort: as it was decided; None before.
        spent_s: by phase, of those that are over.
        trials, trials_s: done so far, and what they took.
    """

    pace: Pace
    images: Mapping[str, int]
    trains: bool
    calibration_s: float = 0.0
    measure_limit_s: float = LIMIT_S
    effort: TrainingEffort | None = None
    spent_s: Mapping[str, float] = field(default_factory=dict)
    trials: int = 0
    trials_s: float = 0.0

    @property
    def finals_time(self) -> FinalsTime:
        """Seconds of the finals."""
        return FinalsTime.of(self.pace, self.images, self.measure_limit_s)

    def seconds(self, phase: str, expected: float) -> float:
        """Of a phase: what it took, or what is expected."""
        return self.spent_s.get(phase, expected)


def effort_costs(asked: TrainingEffort, effort: Effort, known: Known) -> EffortCosts:
    """What one trial costs, and what the wall time leaves for all of them before the last rung."""
    limit_s, pace, images = effort.max_wall_time_s, known.pace, known.images
    left_s = limit_s * (1 - GRACE_SHARE) - known.finals_time.reserved_s(limit_s) - RAY_START_S
    left_s -= known.seconds(BASELINE, _baseline_s(asked, known)) + known.seconds(SENSITIVITY, _sensitivity_s(limit_s, pace))
    untrained_s = BUILD_S + pace.image_s * images["validation"] * len(asked.rung_steps)
    return EffortCosts(pace.step_s, untrained_s, left_s * (1 - (last_share(True) if asked.last_steps else 0.0)))


def _baseline_s(asked: TrainingEffort, known: Known) -> float:
    """Where anything is trained, with the original's outputs on the training images."""
    if not any(asked.stages):
        return known.pace.baseline_s
    rung_epochs = sum(asked.rung_steps) * asked.batch_size / max(known.images["train"], 1)
    return known.pace.baseline_s + known.pace.image_s * known.images["train"] * teacher_views(2 * rung_epochs)


def _sensitivity_s(limit_s: float, pace: Pace) -> float:
    most_s = SENSITIVITY_SHARE * limit_s
    return most_s if pace.sensitivity_s is None else min(pace.sensitivity_s, most_s)


def plan_search(effort: Effort, known: Known) -> SearchPlan:
    """The plan by what is known now."""
    asked = training_effort(effort, known.images["train"], known.trains)
    costs = effort_costs(asked, effort, known)
    decided = known.effort or plan_effort(asked, effort.max_trials, costs, least_share(asked, effort.max_epochs))
    share = last_share(any(decided.rung_steps)) if decided.last_steps else 0.0
    training_s = max(costs.left_s / (1 - (last_share(True) if asked.last_steps else 0.0)), 0.0)
    trial_s = _trial_s(effort.max_trials, decided, costs, known)
    trials = min(effort.max_trials, max(1, known.trials, int(training_s * (1 - share) / trial_s)))
    trials_s = known.seconds(SEARCH, known.trials_s + (trials - known.trials) * trial_s)
    last = _last_rung(decided, costs.step_s, training_s - trials_s)
    finals = known.finals_time
    finals_s = finals.reserved_s(effort.max_wall_time_s)
    searched_s = RAY_START_S * (SEARCH not in known.spent_s) + trials_s
    expected = {
        CALIBRATION: (known.calibration_s, "the target's speed, once for all searches"),
        BASELINE: (_baseline_s(asked, known), "the original: accuracy on the given data, latency on the target"),
        SENSITIVITY: (_sensitivity_s(effort.max_wall_time_s, known.pace), "what each single compression costs and saves"),
        SEARCH: (searched_s, f"{trials} of at most {effort.max_trials} candidates, {_trained(decided)}"),
        LAST_RUNG: (used_s(sum(last), costs.step_s), f"{len(last)} of them are trained on, for about {_mean(last)} steps"),
        FINALS: (finals_s, f"about {EXPECTED_FINALISTS} are exported, read on the selection split and measured"),
    }
    phases = tuple(
        PlannedPhase(name, round(known.seconds(name, seconds), 1), message, name in known.spent_s)
        for name, (seconds, message) in expected.items()
        if seconds or name in known.spent_s
    )
    return SearchPlan(phases, trials, decided, len(last), _mean(last), EXPECTED_FINALISTS, known.pace.source)


def _trial_s(most_trials: int, effort: TrainingEffort, costs: EffortCosts, known: Known) -> float:
    """Of a trial to come, on average: as those before, or as it was measured on the original."""
    if known.trials:
        return max(known.trials_s / known.trials, 1e-3)
    counts = expected_trials(most_trials, len(effort.rung_steps))
    steps = sum(count * steps for count, steps in zip(counts, effort.rung_steps, strict=True)) / most_trials
    return costs.untrained_s + costs.step_s * steps


def _trained(effort: TrainingEffort) -> str:
    rungs = [f"{steps}" for steps in effort.rung_steps if steps]
    if not rungs:
        return "compared untrained"
    return f"the better half trained for {' + '.join(rungs)} steps of {BATCH_SIZE} images"


def _last_rung(effort: TrainingEffort, step_s: float, left_s: float) -> list[int]:
    """Steps of each candidate that the last rung is expected to train on."""
    if not effort.last_steps:
        return []
    last, steps = LastRung(effort.last_steps, effort.rung_steps, step_s, 0.0), list[int]()
    while len(steps) < FEW:
        one = last.steps(len(effort.rung_steps) - 1, step_s, len(steps), left_s - used_s(sum(steps), step_s))
        if not one:
            break
        steps.append(one)
    return steps


def _mean(steps: list[int]) -> int:
    return round(sum(steps) / len(steps)) if steps else 0
