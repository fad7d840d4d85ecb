"""How long a search is expected to take, and what on: by the measured seconds of searches before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hw_models.targets import is_builtin
from search.pace import Pace
from search.plan import Known, SearchPlan, plan_search
from search.spec import SearchSpec
from service.store.input_store import StoredInput
from service.targets.predictors import PredictorFiles


@dataclass(frozen=True)
class Estimator:
    """Plans for the machine of the workers. A target without a predictor is calibrated first, for ``calibration_s``.

    Attributes:
        paces: of a model's resource name: what the newest search of it has measured, or else the newest of any other.
        trains: whether any of these techniques trains; all of them, where none is named.
    """

    predictors: PredictorFiles
    cpus: int
    calibration_s: float
    paces: Callable[[str], Pace | None] = lambda _: None
    trains: Callable[[tuple[str, ...]], bool] = lambda _: True

    def plan(self, spec: SearchSpec, model: StoredInput, dataset: StoredInput) -> SearchPlan:
        """What its time would be spent on."""
        splits, macs = dataset.dataset.split_sizes, model.model.macs
        images = {name: int(splits.get(name, 0)) for name in ("train", "validation", "selection", "test")}
        pace = self.paces(model.name)
        if pace is None:
            pace = Pace.guessed(macs, self.cpus, images["validation"])
        elif pace.source != "measured":
            pace = pace.scaled(macs)
        calibrated_first = is_builtin(spec.target) and not self.predictors.exists(spec.target)
        known = Known(pace, images, self.trains(spec.techniques), self.calibration_s if calibrated_first else 0.0)
        return plan_search(spec.effort, known)

    def duration_s(self, spec: SearchSpec, model: StoredInput, dataset: StoredInput) -> float:
        """Expected seconds of a search."""
        return self.plan(spec, model, dataset).duration_s
