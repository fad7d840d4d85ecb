"""Everything that has to stand before the first trial: the original, its baseline, the sensitivities, the driver."""

from __future__ import annotations

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
)
from search.dataset_file import SPLITS
from search.describe import network_macs
from search.effort_plan import least_share, plan_effort, remember_effort, remembered_effort, training_effort
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
from search.pace import PHASE as PACE
from search.pace import Pace
from search.plan import Known, effort_costs
from search.pricing import Pricer
from search.protocols import BASELINE, CandidateRecord, CandidateStore, Event, Measurement
from search.runtimes import runtime_of
from search.shares import LIBRARIES_S
from search.sized import sized
from search.space import states_optimizer
from search.spec import SearchSpec
from search.step_time import fastest_step, training_step_s
from search.target_facts import facts_of
from techniques import registry
from techniques.base import TrainingMethod
from techniques.context import TechniqueContext
from techniques.effort import TrainingEffort
from techniques.recipe import Recipe

_BASELINE_SHARE = 0.1
"""Of the wall time: how long rounds are added until the original's latency has settled."""
_WAIT_SHARE = 0.25
"""Of the wall time: how long a search waits for a cluster that has no room for it."""
_UNTRAINED_FACTOR = 20
"""A candidate is built on some hundred images and read on the validation split; so many times what the original needs for these."""


@dataclass(frozen=True)
class Setup:
    """What the phases of one search share.

    Attributes:
        train_device: where this process would train.
        known: how fast this machine works on the original, and what was decided by it.
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
    train_device: str = "cpu"
    known: Known = field(kw_only=True)

    @property
    def latency_source(self) -> str:
        """What latencies of finalists are, in words."""
        return "measured" if self.target.attached else self.pricer.source

    @property
    def finals_time(self) -> FinalsTime:
        """What the finals are expected to take."""
        return self.known.finals_time

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
    spec = sized(spec, target)
    techniques = allowed_techniques(spec)
    opened_from = time.monotonic()
    original = open_original(spec, environment.blobs, target)
    opened_s = time.monotonic() - opened_from
    read_from = time.monotonic()
    reading, validation = read_original(spec, original)
    image_s = (time.monotonic() - read_from) / max(len(original.data.split("validation")), 1)
    runner = runner_settings(spec, environment)
    limit_s = min(environment.measure_limit_s, spec.effort.max_wall_time_s * _BASELINE_SHARE)
    latency = _measured_before(environment.store)
    if latency is None and target.attached:
        latency = measure_alone(original.file, target, spec.budget.batch_size, limit_s, runner, environment.store)
    files = _files(spec, environment)
    save_original_logits(validation, files.original_logits)
    pace = _pace(original, latency, image_s, opened_s, environment.cpus)
    trains = bool(training_methods(techniques))
    asked = training_effort(spec.effort, len(original.data.split("train")), trains)
    known = Known(
        pace=pace,
        images={name: len(original.data.split(name)) for name in SPLITS},
        trains=trains,
        measure_limit_s=environment.measure_limit_s,
        parallel=environment.parallel_trials,
        elapsed_s=time.monotonic() - environment.began,
    )
    known = _affordable(asked, spec, original, reading, known, environment)
    if environment.store.phase(PACE) is None:
        environment.store.save_phase(PACE, known.pace.to_json())
    effort = known.effort or asked
    views = _taught(effort, original, reading, files, spec.effort.seed, environment.store)
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
        training_dtype=known.pace.training_dtype,
    )
    artifact, digest = runtime_of(target).artifact, environment.blobs.put_bytes(original.file)
    record = baseline_record(spec, original, validation, artifact, digest)
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
        train_device=_local_device(environment),
        known=known,
    )


def _pace(original: Original, latency: Measurement | None, image_s: float, opened_s: float, cpus: int) -> Pace:
    """What the original took so far; a step of training is guessed until one was measured."""
    macs = network_macs(original.network)
    return Pace(
        macs=macs,
        image_s=image_s,
        step_s=Pace.untimed_step_s(macs, image_s, cpus),
        file_s=original.file_s,
        latency_ms=latency.value if latency else 0.0,
        open_s=LIBRARIES_S + max(opened_s - original.file_s, 0.0),
    )


def _taught(
    effort: TrainingEffort, original: Original, reading: Reading, files: EvaluationFiles, seed: int, store: CandidateStore
) -> int:
    """Writes the original's outputs for candidates to learn from, where any is trained: of how many views of an image."""
    if not any(effort.stages):
        return 1
    epochs = max(2 * sum(effort.rung_steps) * effort.batch_size / len(original.data.split("train")), 1.0)
    return ensure_teacher_logits(original, files.teacher_logits, seed, epochs, store.should_stop, reading)


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


def _affordable(
    asked: TrainingEffort, spec: SearchSpec, original: Original, reading: Reading, known: Known, environment: SearchEnvironment
) -> Known:
    """What is known, with the effort asked for, or what of it the wall time holds; decided once, unless it was no training and
    there is more time."""
    store = environment.store
    remembered, timed = remembered_effort(store), Pace.read(store.phase(PACE))
    if timed:
        known = replace(known, pace=replace(known.pace, step_s=timed.step_s, training_dtype=timed.training_dtype))
    # How fast the nodes of a cluster are is not known here.
    if (remembered and any(remembered.stages)) or environment.ray_address or not any(asked.stages):
        return replace(known, effort=remembered or asked)
    batch = original.data.split("train").images(np.arange(min(known.images["train"], asked.batch_size)))
    try:
        if timed is None and spec.effort.max_epochs is None:
            dtype, step_s = fastest_step(original.network, batch, reading.task, _local_device(environment))
        else:
            # An earlier life's candidates are compared with those to come, and who asks for epochs wants what can be repeated,
            # which the faster type of a machine is not.
            dtype = known.pace.training_dtype
            step_s = training_step_s(original.network, batch, reading.task, _local_device(environment), dtype)
    except RuntimeError as error:  # a GPU that others have filled
        store.append(Event("warning", f"no step of training could be timed here: {reason_of(error)}"))
        return replace(known, effort=asked)
    pace = replace(known.pace, step_s=step_s, training_dtype=dtype)
    known = replace(known, pace=pace, elapsed_s=time.monotonic() - environment.began)
    store.save_phase(PACE, known.pace.to_json())
    costs = effort_costs(asked, spec.effort, known)
    planned = plan_effort(asked, spec.effort.max_trials, costs, least_share(asked, spec.effort.max_epochs))
    if planned != remembered:
        remember_effort(store, asked, planned, spec.effort.max_epochs, spec.effort.max_trials, costs)
    return replace(known, effort=planned)


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
