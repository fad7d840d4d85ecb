"""One trial: a recipe taken up the rungs by an actor that is reused for the next trial. Returns values, opens no database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray import tune

_KEY = "plan"


@dataclass(frozen=True)
class TrialPlan:
    """What the driver decided for one trial.

    Attributes:
        number: the sampler's number; unique in the search.
        payload: JSON object for the evaluator (recipe, seed).
    """

    number: int
    payload: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(config: Mapping[str, Any]) -> TrialPlan:
        """The plan in a Tune trial's config."""
        return TrialPlan(**config[_KEY])

    def to_config(self) -> dict[str, Any]:
        """As a Tune trial's config."""
        return {_KEY: {"number": self.number, "payload": dict(self.payload)}}


class RungEvaluator(Protocol):
    """What an actor runs. Pickled to the actor once; it may keep what it loaded between trials."""

    def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
        """Take the trial to ``rung`` and return JSON-able values; errors of the candidate are raised."""
        ...


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Adapts a `RungEvaluator` to Ray Tune: one training iteration is one rung."""

    def setup(self, config: dict[str, Any], evaluator: RungEvaluator) -> None:
        """Called once per actor; ``evaluator`` comes through the object store."""
        self._evaluator = evaluator
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial without a new process."""
        self._plan = TrialPlan.of(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the next rung; the values travel as JSON, since Tune flattens nested results.

        A candidate that fails is a value too: an actor must survive it.
        """
        rung = int(self.iteration)
        try:
            values = dict(self._evaluator.evaluate(self._plan, rung))
            return {"rung": rung, "values": json.dumps(values), "error": ""}
        except Exception as error:
            return {"rung": rung, "values": "{}", "error": f"{type(error).__name__}: {error}"}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: checkpoints are the evaluator's own, keyed by trial (contract 6)."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""
