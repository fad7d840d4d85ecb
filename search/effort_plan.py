"""How long a candidate is trained, so that all that are asked for come to their turn within the wall time on this machine.

Epochs and trials are what a request allows at most. Where a measured step of training says that the time does not hold both,
each candidate is trained for less, down to a stated share; what still does not fit is left out by the wall time. Where that would
be so few steps that candidates differ by noise, they are compared untrained, and the time trains the most promising few in the last
rung. Where it does not even hold one candidate's least training, none is trained: an answer of untrained candidates is better than
none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from search.protocols import CandidateStore, Event
from search.spec import Effort
from techniques.effort import TrainingEffort

PHASE = "effort"
BATCH_SIZE = 128
RUNG_SHARES = (0.0, 0.25, 0.75)
MOST_RUNG_STEPS = 500
"""Over the rungs that all candidates may reach, where the request does not say how long to train."""
LAST_EPOCHS_SHARE = 0.5
"""Of the epochs that a request allows, the last rung's."""
_NO_MORE_STEPS = 10_000_000
MAX_VIEWS = 2
FIRST_PEERS, PROMOTED_SHARE = 3, 0.5
"""How many candidates go on to the next rung in any case, and which share of those after them."""
LEAST_SHARE = 0.25
"""Of the epochs asked for; fewer would rank candidates by noise."""
LEAST_STEPS = 16
"""Where no epochs were asked for."""
TELLING_STEPS = 60
"""Over the rungs of a search; fewer tell less of a candidate than its untrained accuracy."""


@dataclass(frozen=True)
class EffortCosts:
    """Seconds on this machine, measured on the original.

    Attributes:
        step_s: one step of training.
        untrained_s: a trial without its training: building it, and reading it at every rung.
        left_s: what the wall time leaves for trials.
    """

    step_s: float
    untrained_s: float
    left_s: float


def training_effort(effort: Effort, train_images: int, trains: bool) -> TrainingEffort:
    """Steps per rung: none, a quarter, and the rest of the rungs' share of ``max_epochs``; a single rung where nothing is trained.

    ``last_steps`` are the most of the last rung, which the time may cut. Without ``max_epochs`` the rungs are an epoch, or
    `MOST_RUNG_STEPS` of a larger dataset: enough to tell candidates apart.
    """
    epochs, epoch_steps = effort.max_epochs, train_images / BATCH_SIZE
    if not trains or (epochs is not None and epochs * epoch_steps < 1):
        return TrainingEffort((0,), BATCH_SIZE)
    total = min(epoch_steps, MOST_RUNG_STEPS) if epochs is None else (1 - LAST_EPOCHS_SHARE) * epochs * epoch_steps
    last = _NO_MORE_STEPS if epochs is None else math.ceil(LAST_EPOCHS_SHARE * epochs * epoch_steps)
    return TrainingEffort(tuple(math.ceil(share * total) for share in RUNG_SHARES), BATCH_SIZE, last)


def teacher_views(epochs: float) -> int:
    """How many augmented views of the training images are worth the original's outputs."""
    return max(1, min(MAX_VIEWS, round(epochs)))


def expected_trials(trials: int, rungs: int) -> list[float]:
    """How many of so many trials reach each rung by successive halving; the first few always do."""
    counts = [float(trials)]
    while len(counts) < rungs:
        first = min(counts[-1], FIRST_PEERS)
        counts.append(first + (counts[-1] - first) * PROMOTED_SHARE)
    return counts


def least_share(asked: TrainingEffort, epochs: float | None) -> float:
    """Of the rungs' steps, what each candidate is trained for at least."""
    return LEAST_SHARE if epochs is not None else min(1.0, LEAST_STEPS / max(sum(asked.rung_steps), 1))


def plan_effort(asked: TrainingEffort, trials: int, costs: EffortCosts, least: float = LEAST_SHARE) -> TrainingEffort:
    """The effort asked for, or a smaller one with which ``trials`` fit into the time that is left; perhaps no training at all."""
    if costs.untrained_s + costs.step_s * least * sum(asked.rung_steps) > costs.left_s:
        return TrainingEffort((0,), asked.batch_size)
    counts = expected_trials(trials, len(asked.rung_steps))
    training_s = costs.step_s * sum(count * steps for count, steps in zip(counts, asked.rung_steps, strict=True))
    free_s = costs.left_s - trials * costs.untrained_s
    if training_s <= max(free_s, 0.0):
        return asked
    share = max(free_s / training_s, least)
    if share * sum(asked.rung_steps) < TELLING_STEPS and asked.last_steps:
        return replace(asked, rung_steps=(0,), last_steps=sum(asked.stages))
    return replace(asked, rung_steps=tuple(math.ceil(steps * share) for steps in asked.rung_steps))


def remembered_effort(store: CandidateStore) -> TrainingEffort | None:
    """The effort of an earlier life of this search: its candidates are compared with those to come."""
    found = store.phase(PHASE)
    return None if found is None else TrainingEffort(tuple(found["rung_steps"]), found["batch_size"], found.get("last_steps", 0))


def remember_effort(
    store: CandidateStore, asked: TrainingEffort, planned: TrainingEffort, epochs: float | None, trials: int, costs: EffortCosts
) -> None:
    """Write the effort down; say so where it is less than was asked for."""
    note = ""
    if planned != asked and (epochs is not None or not any(planned.rung_steps)):
        share = sum(planned.rung_steps) / sum(asked.rung_steps)
        less = f"trained for at most {(epochs or 0.0) * share:.2g} epochs instead of {epochs}"
        compared = "compared untrained, and the most promising few are trained in what is left of the time"
        trained = (less if share else compared) if any(planned.stages) else "not trained at all"
        note = (
            f"candidates are {trained}: a step of training takes "
            f"{costs.step_s:.2g} s here, and the wall time leaves {max(costs.left_s, 0.0):.0f} s for {trials} trials. More time "
            "allows more epochs"
        )
        store.append(Event("warning", note))
    steps = {"rung_steps": list(planned.rung_steps), "batch_size": planned.batch_size, "last_steps": planned.last_steps}
    store.save_phase(PHASE, {**steps, "note": note})


def effort_notes(store: CandidateStore) -> Sequence[str]:
    """For the report: that less was trained than asked for."""
    note = (store.phase(PHASE) or {}).get("note", "")
    return [note] if note else []
