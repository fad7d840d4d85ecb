"""How long a search is expected to take, and what on: by the measured seconds of searches before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hw_models.targets import is_builtin
from search.dataset_file import SPLITS
from search.pace import Pace, guessed_latency_ms
from search.plan import Known, SearchPlan, plan_search
from search.spec import SearchSpec
from service.store.input_store import StoredInput
from service.targets.predictors import PredictorFiles


@dataclass(frozen=True)
class Estimator:
    """Plans for the machine of the workers. A target without a predictor is calibrated first, for ``calibration_s``.

    Attributes:
        paces: of a model: what a search before has measured.
        trains: whether any of these techniques trains; all of them, where none is named. May take a second the first time.
        parallel: trials at once.
    """

    predictors: PredictorFiles
    cpus: int
    calibration_s: float
    paces: Callable[[StoredInput], Pace | None] = lambda _: None
    trains: Callable[[tuple[str, ...]], bool] = lambda _: True
    parallel: int = 1

    def plan(self, spec: SearchSpec, model: StoredInput, dataset: StoredInput) -> SearchPlan:
        """What its time would be spent on."""
        images: dict[str, int] = {name: int(dataset.dataset.split_sizes.get(name, 0)) for name in SPLITS}
        here = is_builtin(spec.target)
        calibrated_first = here and not self.predictors.exists(spec.target)
        known = Known(
            pace=self._pace(model, here),
            images=images,
            trains=self.trains(spec.techniques),
            calibration_s=self.calibration_s if calibrated_first else 0.0,
            parallel=self.parallel,
        )
        return plan_search(spec.effort, known)

    def _pace(self, model: StoredInput, measures: bool) -> Pace:
        """Another target's latency says little of this one's, but more than none."""
        macs = model.model.macs
        pace = self.paces(model) or Pace.guessed(macs, self.cpus)
        return replace(pace, latency_ms=(pace.latency_ms or guessed_latency_ms(macs)) if measures else 0.0)
