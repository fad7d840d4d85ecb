"""Everything that has to stand before the first trial: the original, its baseline, the sensitivities, the driver."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from hw_models.predictor import Predictor
from hw_models.targets import Target, builtin_targets
from search.attempts import STEP_LIMIT_S, Attempts, attempt, reason_of, supervised
from search.baseline import (
    Original,
    baseline_record,
    ensure_teacher_logits,
    measure_alone,
    open_original,
    read_original,
    save_original_logits,
)
from search.clock import Clock
from search.driver import SearchDriver
from search.effort_plan import EffortCosts, plan_effort, remember_effort, remembered_effort, training_step_s
from search.environment import SearchEnvironment
from search.errors import FieldViolation, InvalidSpecError, OptionSkippedError, SearchError, TimeLimitError
from search.evaluation.accuracy import AccuracyResult
from search.evaluation.candidate import (
    CALIBRATION_IMAGES,
    CandidateEvaluator,
    EvaluationFiles,
    EvaluationSettings,
    technique_context,
)
from search.evaluation.reading import Reading
from search.execution.runtime import RunnerSettings
from search.finals_time import FinalsTime
from search.moves import PROOF_S, Move, possible_moves, recipe_of
from search.places import PHASE as PLACES_PHASE
from search.places import Places, find_places
from search.pricing import Pricer
from search.protocols import CandidateRecord, Event, Measurement
from search.reach import Reach, find_reach
from search.sampler import PolicySampler
from search.sensitivity import Sensitivity, measure_sensitivity
from search.space import RESOLUTION_SCALES, Policy, search_space
from search.spec import SearchSpec
from search.tracking.outbox import Outbox
from techniques import registry
from techniques.base import Effort as TrainingEffort
from techniques.context import TechniqueContext
from techniques.low_rank.decompose import unproven_layers
from techniques.pruning.structured import left_alone
from techniques.recipe import Recipe

BATCH_SIZE = 128
RUNG_SHARES = (0.0, 0.25, 0.75)
SENSITIVITY_IMAGES = 256
GAP_IMAGES = 5000
"""Of the train split, for the report's gap between training and validation."""
_SENSITIVITY_SHARE = 0.1
_BASELINE_SHARE = 0.1
"""Of the wall time: how long rounds are added until the original's latency has settled."""
_GRACE_SHARE = 0.05
"""Of the wall time: how long after the last promotion a trial that trains may go on before it is interrupted."""
_WAIT_SHARE = 0.25
"""Of the wall time: how long a search waits for a cluster that has no room for it."""
_BUILD_S, _RAY_START_S = 1.0, 20.0
_UNTRAINED_FACTOR = 20
"""A candidate is built on some hundred images and read on the validation split; so many times what the original needs for these."""


@dataclass(frozen=True)
class Setup:
    """What the phases of one search share.

    Attributes:
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
    techniques = allowed_techniques(spec, target)
    original = open_original(spec, environment.blobs, target)
    began = time.monotonic()
    reading, validation = read_original(spec, original)
    image_s = (time.monotonic() - began) / max(len(original.data.split("validation")), 1)
    runner = runner_settings(spec, environment)
    limit_s = min(environment.measure_limit_s, spec.effort.max_wall_time_s * _BASELINE_SHARE)
    latency = None
    if target.attached:
        latency = measure_alone(original.onnx, target, spec.budget.batch_size, limit_s, runner, environment.store)
    finals_time = _finals_time(original, image_s, latency, environment.measure_limit_s)
    files = _files(spec, environment)
    save_original_logits(validation, files.original_logits)
    asked = training_effort(spec, len(original.data.split("train")), "distillation" in techniques)
    effort = _affordable(asked, spec, original, reading, image_s, finals_time, environment)
    views = 1
    if effort.rung_steps[-1]:
        stop = environment.store.should_stop
        epochs = spec.effort.max_epochs * sum(effort.rung_steps) / sum(asked.rung_steps)
        views = ensure_teacher_logits(original, files.teacher_logits, spec.effort.seed, epochs, stop, reading)
    settings = EvaluationSettings(
        metric=spec.metric,
        effort=effort,
        seed=spec.effort.seed,
        views=views,
        threads=runner.threads_per_trial,
        channel_multiple=target.channel_multiple,
        unsigned_activations=target.unsigned_activations,
        scopes=spec.scopes,
        reduced_weight_range=target.reduced_weight_range,
        task=reading.task,
        untrained_limit_s=_untrained_limit_s(original, image_s),
        labelled=original.data.labelled,
    )
    record = baseline_record(spec, original, validation, environment.blobs.put_bytes(original.onnx))
    context = technique_context(settings, original.data.split("train"), files.interrupt)
    pricer = Pricer(original.network, predictor, spec.budget.batch_size, context)
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
        finals_time=finals_time,
    )


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
        file_s=original.file_s + image_s * counts["selection"],
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
    if (remembered and remembered.rung_steps[-1]) or environment.ray_address or not asked.rung_steps[-1]:
        return remembered or asked
    device = "cuda" if environment.train_device != "cpu" and torch.cuda.is_available() else "cpu"
    train, limit_s = original.data.split("train"), spec.effort.max_wall_time_s
    batch = train.images(np.arange(min(len(train), asked.batch_size)))
    left_s = limit_s * (1 - _SENSITIVITY_SHARE - _GRACE_SHARE) - (time.monotonic() - environment.began)
    try:
        step_s = training_step_s(original.network, batch, reading.task, device)
    except RuntimeError as error:  # a GPU that others have filled
        environment.store.append(Event("warning", f"no step of training could be timed here: {reason_of(error)}"))
        return asked
    costs = EffortCosts(
        step_s=step_s,
        untrained_s=_BUILD_S + image_s * len(original.data.split("validation")) * len(asked.rung_steps),
        left_s=left_s
        - finals_time.reserved_s(limit_s)
        - _RAY_START_S
        - image_s * len(train) * max(1, round(spec.effort.max_epochs)),
    )
    planned = plan_effort(asked, spec.effort.max_trials, costs)
    if planned != remembered:
        remember_effort(environment.store, asked, planned, spec.effort.max_epochs, spec.effort.max_trials, costs)
    return planned


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


def allowed_techniques(spec: SearchSpec, target: Target) -> tuple[str, ...]:
    """The registered techniques that request and target allow.

    Raises:
        InvalidSpecError: the request names unknown ones.
    """
    known = [t.name for t in registry.all_techniques()]
    unknown = sorted(set(spec.techniques) - set(known))
    if unknown:
        raise InvalidSpecError([FieldViolation("techniques", f"unknown {unknown}; known are {known}")])
    allowed = [name for name in known if not spec.techniques or name in spec.techniques]
    return tuple(name for name in allowed if name != "int8_quantization" or "int8" in target.precisions)


def training_effort(spec: SearchSpec, train_images: int, distils: bool) -> TrainingEffort:
    """Steps per rung: none, a quarter, the rest of ``max_epochs``; a single rung where nothing is trained."""
    total = spec.effort.max_epochs * train_images / BATCH_SIZE
    if not distils or total < 1:
        return TrainingEffort((0,), BATCH_SIZE)
    return TrainingEffort(tuple(math.ceil(share * total) for share in RUNG_SHARES), BATCH_SIZE)


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


def find_sensitivity(setup: Setup, environment: SearchEnvironment, ends_at: float) -> Sensitivity:
    """The sensitivities: from the store, from an earlier search of the same content, or measured now.

    Args:
        ends_at: of `time.monotonic`: when the wall time is up.
    """
    stored = environment.store.phase("sensitivity")
    if stored is not None:
        return Sensitivity.from_json(stored)
    cache = environment.work_dir.parent / "sensitivity" / f"{_content_key(setup, environment)}.json"
    if cache.exists():
        sensitivity = Sensitivity.from_json(json.loads(cache.read_text()))
    else:
        sensitivity = _measure(setup, environment, ends_at)
        if time.monotonic() > ends_at:
            return sensitivity  # cut short: neither for another search nor for this one, should it be extended
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".partial")
        partial.write_text(json.dumps(sensitivity.to_json()))
        partial.replace(cache)
    environment.store.save_phase("sensitivity", sensitivity.to_json())
    environment.store.append(Event("sensitivity", f"{len(sensitivity.moves)} moves, {len(sensitivity.skipped)} skipped"))
    return sensitivity


_REASONS = {"low_rank": unproven_layers, "structured_pruning": left_alone}
"""Technique -> what finds out why it leaves places alone; each takes as long as finding its places does."""


def tell_places(setup: Setup, sensitivity: Sensitivity, environment: SearchEnvironment, ends_at: float = math.inf) -> None:
    """Find out what is left alone and why, once, and tell it; no search ends for it."""
    store = environment.store
    if store.phase(PLACES_PHASE) is not None:
        return
    network, context = setup.original.network, setup.context

    def find() -> Places:
        # What could not be found out before is not waited for again: its reason is known.
        finders = {name: find for name, find in _REASONS.items() if name not in sensitivity.skipped}
        reasons = {place: why for find in finders.values() for place, why in find(network, context).items()}
        return find_places(network, context, sensitivity, reasons, setup.techniques)

    try:
        limit_s = min(len(_REASONS) * (STEP_LIMIT_S + PROOF_S), max(ends_at - time.monotonic(), 0.0))
        places = attempt("places", find, store.should_stop, limit_s)
    except OptionSkippedError as error:
        store.append(Event("warning", f"what is left alone could not be found out: {error}"))
        return
    store.save_phase(PLACES_PHASE, places.to_json())
    store.append(Event("sensitivity", places.sentence, {"places": places.sentence}))


def _measure(setup: Setup, environment: SearchEnvironment, ends_at: float) -> Sensitivity:
    view = setup.original.data.split("validation")
    rng = np.random.default_rng(setup.spec.effort.seed)
    chosen = np.sort(rng.permutation(len(view))[:SENSITIVITY_IMAGES])
    attempts = Attempts(environment.store, ends_at=ends_at)
    possible = possible_moves(setup.original.network, setup.context, setup.techniques, attempts)
    precisions = ("fp32", "int8") if "int8_quantization" in setup.techniques else ("fp32",)
    limit_s = setup.spec.effort.max_wall_time_s * _SENSITIVITY_SHARE
    torch.manual_seed(setup.spec.effort.seed)
    images = view.images(chosen)
    network = setup.original.network
    try:
        found = measure_sensitivity(network, possible.moves, images, setup.context, setup.pricer, attempts, precisions, limit_s)
    except OptionSkippedError as error:
        if time.monotonic() < ends_at:
            raise
        words = f"the wall time of {setup.spec.effort.max_wall_time_s:.0f} s was up before a candidate could be tried"
        raise SearchError(f"{words}: baseline and sensitivity took it. Allow more time") from error
    return replace(found, skipped={**possible.skipped, **found.skipped})


def _content_key(setup: Setup, environment: SearchEnvironment) -> str:
    spec = setup.spec
    facts = [
        spec.model_sha256,
        spec.dataset_sha256,
        spec.target,
        spec.budget.batch_size,
        spec.scopes,
        setup.techniques,
        setup.reading.task,
    ]
    facts += [spec.effort.seed, spec.effort.max_wall_time_s, environment.predictor_json]
    facts += [[t.name, t.version] for t in registry.all_techniques()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def reach_of(setup: Setup, sensitivity: Sensitivity, environment: SearchEnvironment, ends_at: float) -> Reach:
    """The lowest prices that the allowed techniques can give this network; nothing is known where the time is up before."""
    meta = setup.original.network.to_meta()
    scales = RESOLUTION_SCALES if setup.original.network.size_is_free and "input_resolution" in setup.techniques else (1.0,)
    ends = (max(scales), min(scales))
    policies = [
        Policy(precision=precision, resolution_scale=scale) for precision in sensitivity.saved for scale in sorted(set(ends))
    ]

    def make_recipe(moves: Sequence[Move], policy: Policy) -> Recipe:
        return recipe_of(moves, policy, meta, setup.context, distil=False)

    def find() -> Reach:
        return find_reach(sensitivity.moves, policies, make_recipe, setup.pricer.price, environment.store.should_stop)

    try:
        return supervised(find, environment.store.should_stop, max(ends_at - time.monotonic(), 0.0))
    except TimeLimitError:
        return Reach({})


def make_driver(
    setup: Setup, sensitivity: Sensitivity, environment: SearchEnvironment, outbox: Outbox, clock: Clock
) -> SearchDriver:
    """The driver over this search; trials stop early enough to leave time for the finalists."""
    spec, limit_s = setup.spec, setup.spec.effort.max_wall_time_s
    meta = setup.original.network.to_meta()
    distils = setup.rungs > 1
    usable = [name for name in setup.techniques if name not in sensitivity.skipped]
    space = search_space(usable, setup.original.network.size_is_free)

    def make_recipe(moves: Sequence[Move], policy: Policy) -> Recipe:
        return recipe_of(moves, policy, meta, setup.context, distils)

    return SearchDriver(
        spec=spec,
        store=environment.store,
        outbox=outbox,
        sampler=PolicySampler(space, spec.effort.seed, environment.work_dir / "optuna.db"),
        sensitivity=sensitivity,
        pricer=setup.pricer,
        make_recipe=make_recipe,
        rungs=setup.rungs,
        deadline=clock.ends_at - setup.finals_time.reserved_s(limit_s) - limit_s * _GRACE_SHARE,
        grace_s=limit_s * _GRACE_SHARE,
        first_deadline=clock.ends_at - setup.finals_time.least_s - _RAY_START_S,
        first_ends_at=clock.ends_at,
        interrupt=setup.evaluator.files.interrupt,
    )
