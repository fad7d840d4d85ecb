"""How long a search is expected to take: from counted work and a rough speed, bounded by the wall time that was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from hw_models.targets import is_builtin
from search.spec import Effort, SearchSpec
from service.store.input_store import StoredInput
from service.targets.predictors import PredictorFiles

TRAINING_MACS_PER_S_PER_CPU = 8e9
INFERENCE_MACS_PER_S_PER_CPU = 20e9
"""Order of magnitude of float32 convolutions of small images on one AVX2 core."""
START_S = 25.0
PER_TRIAL_S = 1.0
FINALS_S = 60.0
TRAINED_SHARE = 0.5
"""Of the candidates, this share goes on from one rung to the next; few train for all epochs."""


@dataclass(frozen=True)
class Workload:
    """What the work depends on. ``macs`` are of one image."""

    macs: int
    train_images: int
    validation_images: int
    cpus: int
    calibration_s: float = 0.0


def estimated_duration_s(workload: Workload, effort: Effort) -> float:
    """Expected seconds of a search; all its time, where the request does not say how long candidates are trained."""
    forward_s = workload.macs / (INFERENCE_MACS_PER_S_PER_CPU * workload.cpus)
    if effort.max_epochs is None:
        # What trials leave of the time trains the few that are left.
        return workload.calibration_s + effort.max_wall_time_s
    # Backward costs about twice the forward pass.
    training_s = 3 * workload.macs / (TRAINING_MACS_PER_S_PER_CPU * workload.cpus)
    trial_s = PER_TRIAL_S + workload.validation_images * forward_s
    trial_s += TRAINED_SHARE**2 * effort.max_epochs * workload.train_images * training_s
    searched_s = min(effort.max_trials * trial_s, effort.max_wall_time_s)
    return START_S + workload.calibration_s + searched_s + FINALS_S


@dataclass(frozen=True)
class Estimator:
    """Estimates for the machine of the workers. A target without a predictor is calibrated first, for ``calibration_s``."""

    predictors: PredictorFiles
    cpus: int
    calibration_s: float

    def duration_s(self, spec: SearchSpec, model: StoredInput, dataset: StoredInput) -> float:
        """Expected seconds of a search."""
        splits = dataset.facts["split_sizes"]
        measured_first = is_builtin(spec.target) and not self.predictors.exists(spec.target)
        workload = Workload(
            macs=model.facts["macs"],
            train_images=splits.get("train", 0),
            validation_images=splits.get("validation", 0),
            cpus=self.cpus,
            calibration_s=self.calibration_s if measured_first else 0.0,
        )
        return estimated_duration_s(workload, spec.effort)
