"""The original on the given data and target: everything that candidates are compared with, and the first honest check."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hw_models.targets import Target
from search.dataset_file import DatasetMetadata
from search.effort_plan import teacher_views
from search.errors import BaselineError, ClusterError, SearchCancelledError
from search.evaluation.accuracy import check_baseline, predict, score
from search.evaluation.data import ImageData, SplitView, TrainingSource, write_teacher_logits
from search.evaluation.file_proof import PROOF_IMAGES, FileDiffersError
from search.evaluation.metrics import METRICS
from search.evaluation.metrics.base import AccuracyResult
from search.evaluation.reading import Reading, choose_reading
from search.execution.runner import run_quietly
from search.execution.runtime import RunnerSettings, ray_runtime
from search.protocols import BASELINE, BlobStore, CandidateRecord, CandidateStore, Event, Measurement
from search.runtimes import Artifact, measure_on, runtime_of
from search.spec import SearchSpec
from techniques import lift
from techniques.export import weight_size_bytes
from techniques.head import find_head, training_logits
from techniques.network import Network
from techniques.recipe import Recipe

_TOLD = 12


@dataclass(frozen=True)
class Original:
    """The uploaded network with its data, opened.

    Attributes:
        network: in evaluation behaviour.
        file: the original as the target runs it, through our own exporter: what sizes and latencies are compared with.
        note: what the report must say of the labels; empty where they are read, or there are none.
        file_s: what exporting it and proving its file took.
    """

    network: Network
    data: ImageData
    file: bytes
    note: str = ""
    file_s: float = 0.0


def open_original(spec: SearchSpec, blobs: BlobStore, target: Target) -> Original:
    """Load model and data, and refuse a pair that cannot belong together. Labels of more classes than the network knows are
    left aside, with a note, where candidates are only compared with the original.

    Raises:
        BaselineError: the prepared images or labels do not fit the network (says which side to change), or its exported file
            does not compute the same.
    """
    network = lift.from_pt2(blobs.local_path(spec.model_sha256)).eval()
    data = ImageData.open(blobs.local_path(spec.dataset_sha256))
    preprocessing = data.metadata.preprocessing
    prepared = (preprocessing.channels, preprocessing.height, preprocessing.width)
    if prepared != network.input_shape:
        raise BaselineError(
            f"the network takes images of (channels, height, width) {network.input_shape}, but the preprocessing gives {prepared}: "
            f"{preprocessing.describe()}. Upload the data again with the network's shape, or export the network for this one."
        )
    classes, known, note = data.split("validation").classes, find_head(network).classes, ""
    if classes > known and METRICS[spec.metric].label_free:
        data = ImageData.open(data.path, labelled=False)
        outputs = f"tells {known} apart" if known else "has no outputs that classes go with"
        note = f"the labels name {classes} classes, but the network {outputs}: they were left aside, for training as well"
    elif classes > known > 0:
        raise BaselineError(
            f"the labels name {classes} classes, but the network tells {known} apart; check the label column, or search with "
            "metric AGREEMENT, which leaves such labels aside"
        )
    elif 1 < classes < known and known > 2 and not note:
        names = ", ".join(f"{index} is {name!r}" for index, name in enumerate(data.metadata.class_names[:_TOLD]))
        note = (
            f"the labels name {classes} classes, and the network tells {known} apart: if a class in the middle has no images here, "
            f"all behind it are counted as another ({names}). Give the names of all {known} classes in the network's order"
        )
    began = time.monotonic()
    file = _proven_file(spec, network, data, target)
    return Original(network, data, file, note, time.monotonic() - began)


def _proven_file(spec: SearchSpec, network: Network, data: ImageData, target: Target) -> bytes:
    """The original through our own exporter, once the target's runtime computes the same with it."""
    runtime = runtime_of(target)
    file = runtime.artifact.write(network, spec.budget.batch_size)
    _, images = next(iter(data.split("validation").batches(PROOF_IMAGES)))
    try:
        runtime.prove(network, file, images, target)
    except FileDiffersError as error:
        raise BaselineError(f"the original cannot be exported faithfully, so nothing could be compared with it: {error}") from error
    return file


def file_accuracy(
    file: bytes, view: SplitView, reading: Reading, teacher: AccuracyResult | None, target: Target, threads: int
) -> AccuracyResult:
    """Accuracy of an exported file in the runtime itself, as the target runs it, on the images of a split."""
    runtime = runtime_of(target)
    parts = [
        reading.logits(runtime.run(file, images.numpy(), target, threads))
        for _, images in view.batches(reading.images_at_once(1000))
    ]
    logits = np.concatenate(parts)
    return score(logits, view.labels, reading.metric, logits if teacher is None else teacher.logits, reading.task)


def read_original(spec: SearchSpec, original: Original) -> tuple[Reading, AccuracyResult]:
    """How this search reads outputs, and the accuracy of the original on the validation split.

    Raises:
        BaselineError: the metric does not go with the outputs, or `check_baseline`; names preprocessing and class order.
    """
    view, network = original.data.split("validation"), original.network

    def logits(reading: Reading) -> npt.NDArray[np.float32]:
        return predict(reading.predictor(network), view, reading.images_at_once(256))

    reading = choose_reading(network, spec.metric, view.labels, logits)
    found = logits(reading)
    result = score(found, view.labels, reading.metric, found, reading.task)
    labels = None if METRICS[spec.metric].label_free else view.labels
    metadata = original.data.metadata
    check_baseline(result, labels, spec.expected_accuracy, metadata.preprocessing, _remarks(metadata))
    return reading, result


def _remarks(metadata: DatasetMetadata) -> list[str]:
    """What is known about the data that may explain an accuracy: the order of its classes, and what its upload noted."""
    names = [f"{index} is {name!r}" for index, name in enumerate(metadata.class_names[:_TOLD])]
    order = [f"The classes were taken in this order: {', '.join(names)}{', ...' if len(metadata.class_names) > _TOLD else ''}."]
    noted = tuple(dict.fromkeys((*metadata.notes, *metadata.problems)))
    return (order if names else []) + ([f"Noted at the upload of the data: {'; '.join(noted[:_TOLD])}."] if noted else [])


def baseline_record(
    spec: SearchSpec, original: Original, validation: AccuracyResult, artifact: Artifact, digest: str
) -> CandidateRecord:
    """The original as a stored record; its latency is added once it was measured."""
    return CandidateRecord(
        candidate_id=BASELINE,
        trial_number=-1,
        recipe_json=Recipe().to_json(),
        seed=spec.effort.seed,
        rung=0,
        accuracy={"validation": validation.value},
        accuracy_interval={"validation": validation.interval},
        drop_points={"validation": (0.0, 0.0, 0.0)},
        measurements={
            **artifact.counts(original.file, original.network),
            "weight_size_bytes": Measurement(weight_size_bytes(original.network), "counted"),
            artifact.size_name: Measurement(len(original.file), "measured"),
        },
        artifacts={artifact.name: digest},
    )


def save_original_logits(result: AccuracyResult, path: Path) -> None:
    """Write the original's outputs on the validation split for the actors."""
    np.save(path, result.logits, allow_pickle=False)


def ensure_teacher_logits(
    original: Original, path: Path, seed: int, epochs: float, should_stop: Callable[[], bool], reading: Reading
) -> int:
    """Write the original's logits on the training views once (contract 9); returns the number of views.

    Raises:
        SearchCancelledError: ``should_stop``, asked before every batch, said so.
    """
    views = teacher_views(epochs)
    if not path.exists():
        data, network_logits = original.data, training_logits(original.network, reading.task)
        source = TrainingSource(data.split("train"), seed, data.metadata.augment, None, views)

        def outputs(images: Tensor) -> Tensor:
            if should_stop():
                raise SearchCancelledError("cancelled while the original's outputs were written")
            return network_logits(images)

        write_teacher_logits(outputs, source, path, reading.images_at_once(256))
    return views


def measure_alone(
    file: bytes, target: Target, batch: int, limit_s: float, runner: RunnerSettings, store: CandidateStore
) -> Measurement:
    """Latency of the original on the target before any trial runs.

    In a cluster others may be at work on this machine, so it is measured when Ray gives all of it away. Where that takes more than
    ``limit_s``, too, it is measured beside them and said so; the finals measure it again.
    """
    if runner.address:
        try:
            return _measure_quietly(file, target, batch, limit_s, runner, store)
        except ClusterError as error:
            store.append(Event("warning", f"{error}. The original is measured beside them; the finals measure it again"))
    measure = runtime_of(target).measure
    return measure({BASELINE: file}, target, BASELINE, batch=batch, limit_s=limit_s)[BASELINE].measurement


def _measure_quietly(
    file: bytes, target: Target, batch: int, limit_s: float, runner: RunnerSettings, store: CandidateStore
) -> Measurement:
    with ray_runtime(runner):
        results = run_quietly(
            measure_on,
            runner,
            runtime_of(target),
            {BASELINE: file},
            target,
            BASELINE,
            should_stop=store.should_stop,
            tell=lambda words: store.append(Event("warning", words)),
            ends_at=time.monotonic() + limit_s,
            limit_s=lambda: limit_s,
            batch=batch,
        )
    return results[BASELINE].measurement
