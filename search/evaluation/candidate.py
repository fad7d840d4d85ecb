"""What a trial actor does at one rung: build the candidate from its recipe, train it so far, and read its accuracy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hw_models.predictor import Predictor
from search.attempts import supervised
from search.evaluation.accuracy import drop_points, evaluate, score
from search.evaluation.data import CalibrationSource, ImageData, SplitView, TrainingSource, open_teacher_logits
from search.evaluation.metrics.base import AccuracyResult
from search.evaluation.reading import Reading
from search.execution.trial import TrialPlan
from search.execution.word import Tell, Word
from search.pricing import Pricer
from techniques import lift
from techniques.apply import compress
from techniques.context import TechniqueContext
from techniques.effort import FLOAT32, TrainingEffort
from techniques.facts import TargetFacts
from techniques.head import Task, find_head
from techniques.network import Network
from techniques.recipe import Recipe

CALIBRATION_IMAGES = 512
StepDone = Callable[[int, int], None]


@dataclass(frozen=True)
class EvaluationFiles:
    """Files that driver and actors share, all read-only to the actors but ``checkpoints``.

    Attributes:
        network: the canonical ``.pt2`` of the original.
        dataset: the canonical dataset.
        teacher_logits: the original's outputs on the training views; written once by the driver (contract 9).
        original_logits: the original's outputs on the validation split, ``.npy``.
        checkpoints: a folder for training states, one per trial.
        interrupt: while this file exists, training stops.
    """

    network: Path
    dataset: Path
    teacher_logits: Path
    original_logits: Path
    checkpoints: Path
    interrupt: Path

    @property
    def inputs(self) -> tuple[Path, ...]:
        """What trials read only."""
        return (self.network, self.dataset, self.teacher_logits, self.original_logits)

    def checkpoint(self, number: int) -> Path:
        """The training state of one trial."""
        return self.checkpoints / f"c{number:04d}.rungs"

    def moved(self, inputs: Mapping[Path, Path], checkpoints: Path, interrupt: Path) -> EvaluationFiles:
        """The same files on another machine, which may lack the teacher's logits as this one does."""
        return EvaluationFiles(
            network=inputs[self.network],
            dataset=inputs[self.dataset],
            teacher_logits=inputs.get(self.teacher_logits, self.teacher_logits),
            original_logits=inputs[self.original_logits],
            checkpoints=checkpoints,
            interrupt=interrupt,
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """How candidates are trained and scored; plain values only.

    Attributes:
        device: where candidates are trained, ``cpu`` or ``cuda``; they are read on the CPU, as the files will be.
        training_dtype: what training computes in; whatever is read is float32 or what the file has.
        facts: of the target.
        batch, predictor_json: what prices of networks are for; without a predictor techniques have no cost.
        untrained_limit_s: what building a candidate and reading it may take before anything is trained.
    """

    metric: str
    effort: TrainingEffort
    seed: int
    views: int
    threads: int
    scopes: tuple[str, ...]
    facts: TargetFacts = field(default_factory=TargetFacts)
    batch: int = 1
    predictor_json: str = ""
    task: Task = "classes"
    untrained_limit_s: float = math.inf
    labelled: bool = True
    device: str = "cpu"
    training_dtype: str = FLOAT32


class CandidateEvaluator:
    """A `MovableEvaluator`; data and the original are opened once per actor and kept between trials."""

    def __init__(self, files: EvaluationFiles, settings: EvaluationSettings, tell: Tell | None = None) -> None:
        """See the class.

        Args:
            tell: hears how far a trial is, after every step of training.
        """
        self.files, self.settings, self.tell = files, settings, tell
        self._loaded: _Loaded | None = None
        self._number, self._effort = -1, settings.effort
        self._steps_at: list[float] = []

    def with_files(self, files: EvaluationFiles) -> CandidateEvaluator:
        """The same evaluator on files that lie elsewhere."""
        return CandidateEvaluator(files, self.settings, self.tell)

    def on_device(self, device: str) -> CandidateEvaluator:
        """The same evaluator, training elsewhere."""
        return CandidateEvaluator(self.files, replace(self.settings, device=device), self.tell)

    def __getstate__(self) -> dict[str, Any]:
        fresh = CandidateEvaluator(self.files, self.settings)
        return dict(fresh.__dict__)

    def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
        """Accuracy and drop on the validation split after ``rung``; ended from outside when the search stops.

        Raises:
            OptionSkippedError: it was stopped: without training it took more than the stated time.
            SearchCancelledError: the search is to stop.
        """
        trains = rung == len(self.settings.effort.rung_steps) or self.settings.effort.rung_steps[rung] > 0
        limit_s = math.inf if trains else self.settings.untrained_limit_s
        return supervised(lambda: self._evaluate(plan, rung), self.files.interrupt.exists, limit_s)

    def _evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
        started = time.perf_counter()
        self._number, self._steps_at = plan.number, []
        recipe, last_steps = Recipe.from_json(plan.payload["recipe"]), plan.payload.get("last_steps", 0)
        network = self.build(recipe, rung, self.files.checkpoint(plan.number), last_steps)
        taken = np.diff(self._steps_at)
        step_s = {"step_s": float(np.median(taken))} if len(taken) else {}
        return {**self.read(network), **step_s, "last_steps": last_steps, "duration_s": time.perf_counter() - started}

    def read(self, network: Network) -> Mapping[str, Any]:
        """On the validation split: ``accuracy``, ``interval`` (low, high) and ``drop_points`` (estimate, low, high)."""
        loaded = self.loaded()
        predictor = loaded.reading.predictor(network.eval())
        batch, teacher = loaded.reading.images_at_once(256), loaded.original.logits
        result = evaluate(predictor, loaded.validation, self.settings.metric, batch, teacher, self.settings.task)
        drop = drop_points(loaded.original, result, loaded.validation.labels)
        return {
            "accuracy": result.value,
            "interval": list(result.interval),
            "drop_points": list(drop),
        }

    def build(self, recipe: Recipe, rung: int, checkpoint: Path | None, last_steps: int = 0) -> Network:
        """The candidate after ``rung``; without a checkpoint this is its replay from nothing but recipe, rung and seed.

        Args:
            rung: behind those of the settings stands the last one, of ``last_steps``.
        """
        torch.set_num_threads(self.settings.threads)
        torch.manual_seed(self.settings.seed)
        loaded = self.loaded()
        effort = self._effort = replace(self.settings.effort.up_to(rung), last_steps=last_steps)
        return compress(loaded.network, recipe, loaded.context, loaded.training, effort, checkpoint)

    def loaded(self) -> _Loaded:
        """The opened files."""
        if self._loaded is None:
            self._loaded = _open(self.files, self.settings, self._step_done)
        return self._loaded

    def _step_done(self, rung: int, steps: int) -> None:
        self._steps_at.append(time.perf_counter())
        if self.tell is None:
            return
        images, known = len(self.loaded().training), max(self._effort.stages, self.settings.effort.rung_steps, key=len)
        done = sum(known[:rung]) + steps
        epoch, epochs = (count * self._effort.batch_size / images for count in (done, sum(known)))
        self.tell(Word(self._number, rung, epoch, epochs))


@dataclass(frozen=True)
class _Loaded:
    network: Network
    training: TrainingSource
    validation: SplitView
    original: AccuracyResult
    reading: Reading
    context: TechniqueContext


def _open(files: EvaluationFiles, settings: EvaluationSettings, step_done: StepDone) -> _Loaded:
    data = ImageData.open(files.dataset, settings.labelled)
    train, validation = data.split("train"), data.split("validation")
    logits: np.ndarray[Any, Any] = np.load(files.original_logits, allow_pickle=False)
    teacher = open_teacher_logits(files.teacher_logits) if files.teacher_logits.exists() else None
    network = lift.from_pt2(files.network)
    cost = LazyCost(network, settings.predictor_json, settings.batch) if settings.predictor_json else None
    return _Loaded(
        network=network,
        training=TrainingSource(train, settings.seed, data.metadata.augment, teacher, settings.views, settings.task),
        validation=validation,
        original=score(logits, validation.labels, settings.metric, logits, settings.task),
        reading=Reading(settings.metric, find_head(network), settings.task),
        context=replace(technique_context(settings, train, files.interrupt), step_done=step_done, cost=cost),
    )


def technique_context(settings: EvaluationSettings, train: SplitView, interrupt: Path) -> TechniqueContext:
    """The facts of target and request as techniques see them."""
    return TechniqueContext.of(
        settings.facts,
        seed=settings.seed,
        scopes=settings.scopes,
        calibration=CalibrationSource(train, min(CALIBRATION_IMAGES, len(train)), settings.seed, settings.task),
        interrupt=interrupt.exists,
        task=settings.task,
        device=settings.device,
        training_dtype=settings.training_dtype,
    )


class LazyCost:
    """A `CostFunction` that is made when it is first asked: most techniques never ask."""

    def __init__(self, network: Network, predictor_json: str, batch: int) -> None:
        self._network, self._predictor_json, self._batch = network, predictor_json, batch
        self._pricer: Pricer | None = None

    def __call__(self, network: Network) -> float:
        """Predicted milliseconds."""
        if self._pricer is None:
            self._pricer = Pricer(self._network, Predictor.from_json(self._predictor_json), self._batch)
        return self._pricer(network)
