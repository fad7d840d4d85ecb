"""Everything that has to stand before the first trial: the original, its baseline, the sensitivities, the driver."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from hw_models.predictor import Predictor
from hw_models.targets import Target, builtin_targets
from search.attempts import STEP_LIMIT_S, reason_of
from search.baseline import (
    Original,
    baseline_record,
    ensure_teacher_logits,
    measure_alone,
    open_original,
    read_original,
    save_original_logits,
    teacher_views,
)
from search.effort_plan import EffortCosts, least_share, plan_effort, remember_effort, remembered_effort, training_step_s
from search.environment import SearchEnvironment
from search.errors import FieldViolation, InvalidSpecError
from search.evaluation.candidate import (
    CALIBRATION_IMAGES,
    CandidateEvaluator,
    EvaluationFiles,
    EvaluationSettings,
    technique_context,
)
from search.evaluation.metrics.base import AccuracyResult
from search.evaluation.reading import Reading
from search.execution.runtime import RunnerSettings
from search.finals_time import FinalsTime
from search.pricing import Pricer
from search.protocols import BASELINE, CandidateRecord, CandidateStore, Event, Measurement
from search.space import states_optimizer
from search.spec import SearchSpec
from search.target_facts import facts_of
from techniques import registry
from techniques.base import TrainingEffort, TrainingMethod
from techniques.context import TechniqueContext
from techniques.recipe import Recipe

BATCH_SIZE = 128
RUNG_SHARES = (0.0, 0.25, 0.75)
MOST_RUNG_STEPS = 500
"""Over the rungs that all candidates may reach, where the request does not say how long to train."""
LAST_EPOCHS_SHARE = 0.5
"""Of the epochs that a request allows, the last rung's."""
LAST_TIME_SHARE, ONLY_LAST_SHARE = 0.35, 0.6
"""Of the time of all training, the last rung's, where the time is what bounds it; and where nothing is trained before it."""
_NO_MORE_STEPS = 10_000_000
GAP_IMAGES = 5000
"""Of the train split, for the report's gap between training and validation."""
SENSITIVITY_SHARE = 0.1
_BASELINE_SHARE = 0.1
"""Of the wall time: how long rounds are added until the original's latency has settled."""
GRACE_SHARE = 0.05
"""Of the wall time: how long after the last promotion a trial that trains may go on before it is interrupted."""
_WAIT_SHARE = 0.25
"""Of the wall time: how long a search waits for a cluster that has no room for it."""
_BUILD_S, RAY_START_S = 1.0, 20.0
_CANDIDATE_FILE_FACTOR = 2.0
"""A candidate's file has the nodes of its integers, too, and is exported once more as ``.pt2``."""
_UNTRAINED_FACTOR = 20
"""A candidate is built on some hundred images and read on the validation split; so many times what the original needs for these."""


@dataclass(frozen=True)
class Setup:
    """What the phases of one search share.

    Attributes:
        train_device: where this process would train.
        calibrated: whether anything was measured on the target; its predictions are a data sheet's otherwise.
        finals_time: what the finals are expected to take.
    """

    spec: SearchSpec
    target: Target
    original: Original
    reading: Reading
    validation: AccuracyResult
    baseline: CandidateRecord
    evaluator: CandidateEvaluator
    context: TechniqueContext
    pricer: Pricer
    techniques: tuple[str, ...]
    runner: RunnerSettings
    calibrated: bool = True
    train_device: str = "cpu"
    finals_time: FinalsTime = field(default_factory=FinalsTime)

    @property
    def latency_source(self) -> str:
        """What latencies of finalists are, in words."""
        if self.target.attached:
            return "measured"
        return "predicted" if self.calibrated else "predicted, uncalibrated"

    @property
    def rungs(self) -> int:
        """Number of rungs, the first one without training."""
        return len(self.evaluator.settings.effort.rung_steps)


def prepare(spec: SearchSpec, environment: SearchEnvironment) -> Setup:
    """Open the original, check it, measure it, and write what the actors share.

    Raises:
        BaselineError: model and data do not belong together, or the accuracy is not what was expected.
        InvalidSpecError: unknown techniques or target.
        SearchCancelledError: cancelled while the original's outputs were written.
    """
    predictor = Predictor.from_json(environment.predictor_json)
    target = searched_target(spec.target, predictor)
    techniques = allowed_techniques(spec)
    original = open_original(spec, environment.blobs, target)
    began = time.monotonic()
    reading, validation = read_original(spec, original)
    image_s = (time.monotonic() - began) / max(len(original.data.split("validation")), 1)
    runner = runner_settings(spec, environment)
    limit_s = min(environment.measure_limit_s, spec.effort.max_wall_time_s * _BASELINE_SHARE)
    latency = _measured_before(environment.store)
    if latency is None and target.attached:
        latency = measure_alone(original.onnx, target, spec.budget.batch_size, limit_s, runner, environment.store)
    finals_time = _finals_time(original, image_s, latency, environment.measure_limit_s)
    files = _files(spec, environment)
    save_original_logits(validation, files.original_logits)
    asked = training_effort(spec, len(original.data.split("train")), bool(training_methods(techniques)))
    effort = _affordable(asked, spec, original, reading, image_s, finals_time, environment)
    views = 1
    if any(effort.stages):
        stop = environment.store.should_stop
        epochs = max(2 * sum(effort.rung_steps) * effort.batch_size / len(original.data.split("train")), 1.0)
        views = ensure_teacher_logits(original, files.teacher_logits, spec.effort.seed, epochs, stop, reading)
    settings = EvaluationSettings(
        metric=spec.metric,
        effort=effort,
        seed=spec.effort.seed,
        views=views,
        threads=runner.threads_per_trial,
        facts=facts_of(target),
        batch=spec.budget.batch_size,
        predictor_json=environment.predictor_json,
        scopes=spec.scopes,
        task=reading.task,
        untrained_limit_s=_untrained_limit_s(original, image_s),
        labelled=original.data.labelled,
    )
    record = baseline_record(spec, original, validation, environment.blobs.put_bytes(original.onnx))
    context = technique_context(settings, original.data.split("train"), files.interrupt)
    pricer = Pricer(original.network, predictor, spec.budget.batch_size, context)
    context = replace(context, cost=pricer)
    record = replace(record, measurements={**record.measurements, "latency_ms": latency or pricer.price(Recipe()).latency})
    return Setup(
        spec=spec,
        target=target,
        original=original,
        reading=reading,
        validation=validation,
        baseline=record,
        evaluator=CandidateEvaluator(files, settings),
        context=context,
        pricer=pricer,
        techniques=techniques,
        runner=runner,
        calibrated=predictor.calibrated,
        train_device=_local_device(environment),
        finals_time=finals_time,
    )


def _measured_before(store: CandidateStore) -> Measurement | None:
    """The original's latency as an earlier life of this search has measured it: what was decided by it stays so."""
    found = [r.measurements["latency_ms"] for r in store.candidates() if r.candidate_id == BASELINE]
    return next((latency for latency in found if latency.source == "measured"), None)


def runner_settings(spec: SearchSpec, environment: SearchEnvironment) -> RunnerSettings:
    """How Ray runs in this search; waiting for a cluster leaves most of the wall time."""
    return RunnerSettings(
        cpus=environment.cpus,
        storage_path=environment.work_dir / "tune",
        address=environment.ray_address,
        parallel_trials=environment.parallel_trials,
        trial_cpus=environment.trial_cpus,
        gpus=torch.cuda.device_count() if environment.train_device != "cpu" else 0,
        train_device=environment.train_device,
        wait_limit_s=min(environment.cluster_wait_s, spec.effort.max_wall_time_s * _WAIT_SHARE),
    )


def _finals_time(original: Original, image_s: float, latency: Measurement | None, measure_limit_s: float) -> FinalsTime:
    counts = {name: len(original.data.split(name)) for name in ("train", "selection", "test")}
    return FinalsTime(
        file_s=_CANDIDATE_FILE_FACTOR * original.file_s + _BUILD_S + image_s * counts["selection"],
        latency_ms=latency.value if latency else 0.0,
        measure_limit_s=measure_limit_s,
        closing_s=2 * image_s * counts["test"],
        gaps_s=2 * image_s * min(counts["train"], GAP_IMAGES),
    )


def _affordable(
    asked: TrainingEffort,
    spec: SearchSpec,
    original: Original,
    reading: Reading,
    image_s: float,
    finals_time: FinalsTime,
    environment: SearchEnvironment,
) -> TrainingEffort:
    """The effort asked for, or what of it the wall time holds; decided once, unless it was no training and there is more time."""
    remembered = remembered_effort(environment.store)
    # How fast the nodes of a cluster are is not known here.
    if (remembered and any(remembered.stages)) or environment.ray_address or not any(asked.stages):
        return remembered or asked
    device = _local_device(environment)
    train, limit_s = original.data.split("train"), spec.effort.max_wall_time_s
    batch = train.images(np.arange(min(len(train), asked.batch_size)))
    left_s = limit_s * (1 - SENSITIVITY_SHARE - GRACE_SHARE) - (time.monotonic() - environment.began)
    try:
        step_s = training_step_s(original.network, batch, reading.task, device)
    except RuntimeError as error:  # a GPU that others have filled
        environment.store.append(Event("warning", f"no step of training could be timed here: {reason_of(error)}"))
        return asked
    rung_epochs = sum(asked.rung_steps) * asked.batch_size / len(train)
    left_s -= finals_time.reserved_s(limit_s) + RAY_START_S + image_s * len(train) * teacher_views(2 * rung_epochs)
    costs = EffortCosts(
        step_s=step_s,
        untrained_s=_BUILD_S + image_s * len(original.data.split("validation")) * len(asked.rung_steps),
        left_s=left_s * (1 - LAST_TIME_SHARE),
    )
    planned = plan_effort(asked, spec.effort.max_trials, costs, least_share(asked, spec.effort.max_epochs))
    if planned != remembered:
        remember_effort(environment.store, asked, planned, spec.effort.max_epochs, spec.effort.max_trials, costs)
    return planned


def _local_device(environment: SearchEnvironment) -> str:
    """Where this process trains; what a cluster has is not known here."""
    return "cuda" if environment.train_device != "cpu" and torch.cuda.is_available() else "cpu"


def searched_target(name: str, predictor: Predictor) -> Target:
    """The target of a request: one of this machine's by its name, any other as its predictor knows it.

    Raises:
        InvalidSpecError: it is neither.
    """
    known = {target.name: target for target in builtin_targets()}
    target = known.get(name, predictor.target)
    if target.name != name:
        words = f"{name!r} is no target of this machine ({sorted(known)}), and the predictor given is {target.name}'s"
        raise InvalidSpecError([FieldViolation("target", words)])
    return target


def _untrained_limit_s(original: Original, image_s: float) -> float:
    """What building a candidate without training, and reading it, may take; ``image_s`` are the original's seconds per image."""
    images = len(original.data.split("validation")) + 2 * CALIBRATION_IMAGES
    return STEP_LIMIT_S + _UNTRAINED_FACTOR * image_s * images


def allowed_techniques(spec: SearchSpec) -> tuple[str, ...]:
    """The registered techniques that the request allows, in the order of registration.

    Raises:
        InvalidSpecError: the request names unknown ones.
    """
    known = [t.name for t in registry.all_techniques()]
    unknown = sorted(set(spec.techniques) - set(known))
    if unknown:
        raise InvalidSpecError([FieldViolation("techniques", f"unknown {unknown}; known are {known}")])
    return tuple(name for name in known if not spec.techniques or name in spec.techniques)


def training_methods(techniques: Sequence[str]) -> tuple[str, ...]:
    """Those of these techniques that train; none, where none of them trains by itself."""
    found = tuple(name for name in techniques if isinstance(registry.get(name), TrainingMethod))
    return found if any(map(states_optimizer, found)) else ()


def training_effort(spec: SearchSpec, train_images: int, trains: bool) -> TrainingEffort:
    """Steps per rung: none, a quarter, and the rest of the rungs' share of ``max_epochs``; a single rung where nothing is trained.

    ``last_steps`` are the most of the last rung, which the time may cut. Without ``max_epochs`` the rungs are an epoch, or
    `MOST_RUNG_STEPS` of a larger dataset: enough to tell candidates apart.
    """
    epochs, epoch_steps = spec.effort.max_epochs, train_images / BATCH_SIZE
    if not trains or (epochs is not None and epochs * epoch_steps < 1):
        return TrainingEffort((0,), BATCH_SIZE)
    total = min(epoch_steps, MOST_RUNG_STEPS) if epochs is None else (1 - LAST_EPOCHS_SHARE) * epochs * epoch_steps
    last = _NO_MORE_STEPS if epochs is None else math.ceil(LAST_EPOCHS_SHARE * epochs * epoch_steps)
    return TrainingEffort(tuple(math.ceil(share * total) for share in RUNG_SHARES), BATCH_SIZE, last)


def _files(spec: SearchSpec, environment: SearchEnvironment) -> EvaluationFiles:
    work = environment.work_dir
    (work / "checkpoints").mkdir(parents=True, exist_ok=True)
    files = EvaluationFiles(
        network=environment.blobs.local_path(spec.model_sha256),
        dataset=environment.blobs.local_path(spec.dataset_sha256),
        teacher_logits=work / "teacher_logits.npy",
        original_logits=work / "original_logits.npy",
        checkpoints=work / "checkpoints",
        interrupt=work / "interrupt",
    )
    files.interrupt.unlink(missing_ok=True)
    return files
