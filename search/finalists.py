"""The last rung: a few candidates as files, read on the selection split in the target runtime and measured there."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hw_models.targets import Target
from search.baseline import file_accuracy
from search.composition import sparing
from search.evaluation.accuracy import drop_points
from search.evaluation.audits import audited
from search.evaluation.candidate import CandidateEvaluator
from search.evaluation.data import SplitView
from search.evaluation.file_proof import PROOF_IMAGES, FileDiffersError
from search.evaluation.metrics.base import AccuracyResult
from search.evaluation.reading import Reading
from search.pricing import Pricer, price_measurements
from search.protocols import CONTAINER, BlobStore, CandidateRecord, Measurement
from search.runtimes import runtime_of
from techniques.export import to_pt2, weight_size_bytes
from techniques.network import Network
from techniques.recipe import Recipe


@dataclass(frozen=True)
class Exported:
    """A candidate's files as blobs, and the one that the target runs for measuring.

    Attributes:
        note: what a reader must know of how it came about; empty where its recipe was exported as it was tried.
    """

    record: CandidateRecord
    file: bytes
    note: str = ""


def export(
    record: CandidateRecord, evaluator: CandidateEvaluator, pricer: Pricer, blobs: BlobStore, target: Target, batch: int = 1
) -> Exported:
    """Build the trained candidate, prove its file, and store it with ``model.pt2``, ``recipe.json``, ``model.zip``.

    A budget for more images than one per run gets a file with a free batch. Where the file differs in layers on integers, it is
    made once more with these in float: recipe, accuracy and prices of the record become those of the changed network, and the note
    says so. The policy stays: it is what the sampler proposed.

    Raises:
        FileDiffersError: the runtime computes something else than the network; names the layer.
    """
    artifact = runtime_of(target).artifact
    if artifact.name in record.artifacts:
        # An earlier end of the search has proven it.
        return Exported(record, blobs.get_bytes(record.artifacts[artifact.name]), record.note)
    network, file, recipe = _proven(record, evaluator, target, batch)
    tried, note = Recipe.from_json(record.recipe_json), ""
    if recipe != tried:
        record, note = _changed(record, recipe, network, evaluator, pricer)
    container = packed(artifact.name, file, record.recipe_json)
    artifacts = {
        "model.pt2": _stored_pt2(network, blobs),
        artifact.name: blobs.put_bytes(file),
        "recipe.json": blobs.put_bytes(record.recipe_json.encode()),
        CONTAINER: blobs.put_bytes(container),
    }
    sizes = {
        artifact.size_name: Measurement(len(file), "measured"),
        "download_size_bytes": Measurement(len(container), "measured"),
        "weight_size_bytes": Measurement(weight_size_bytes(network), "counted"),
    }
    measurements = {
        **record.measurements,
        **sizes,
        **artifact.counts(file, network),
        "predicted_latency_ms": record.measurements["latency_ms"],
    }
    return Exported(replace(record, artifacts=artifacts, measurements=measurements, state="finalist", note=note), file, note)


def _changed(
    record: CandidateRecord, recipe: Recipe, network: Network, evaluator: CandidateEvaluator, pricer: Pricer
) -> tuple[CandidateRecord, str]:
    """The record of another recipe than was tried, read and priced anew, and a note that says so."""
    read = evaluator.read(network)
    changed = replace(
        record,
        recipe_json=recipe.to_json(),
        accuracy={"validation": read["accuracy"]},
        accuracy_interval={"validation": tuple(read["interval"])},
        drop_points={"validation": tuple(read["drop_points"])},
        measurements=price_measurements(pricer.price(recipe)),
    )
    return changed, (
        f"{record.candidate_id} was changed after it was tried: layers in which its file on integers computed something else "
        "were left in float; its accuracy, prices and recipe are those of the changed network"
    )


def _proven(record: CandidateRecord, evaluator: CandidateEvaluator, target: Target, batch: int) -> tuple[Network, bytes, Recipe]:
    recipe = Recipe.from_json(record.recipe_json)
    try:
        return *_proven_file(recipe, record, evaluator, target, batch), recipe
    except FileDiffersError as error:
        spared = sparing(recipe, error.layers)
        if spared is None:
            raise
    return *_proven_file(spared, record, evaluator, target, batch), spared


def _proven_file(
    recipe: Recipe, record: CandidateRecord, evaluator: CandidateEvaluator, target: Target, batch: int
) -> tuple[Network, bytes]:
    checkpoint = evaluator.files.checkpoint(record.trial_number)
    network = evaluator.build(recipe, record.rung, checkpoint, record.last_steps).eval()
    runtime = runtime_of(target)
    file = runtime.artifact.write(network, batch)
    _, images = next(iter(evaluator.loaded().validation.batches(PROOF_IMAGES)))
    runtime.prove(network, file, images, target)
    return network, file


def packed(name: str, file: bytes, recipe_json: str) -> bytes:
    """The download container: a deflated zip of the model and its recipe, byte for byte repeatable."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for entry, data in ((name, file), ("recipe.json", recipe_json.encode())):
            archive.writestr(zipfile.ZipInfo(entry), data, zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()


def _stored_pt2(network: Network, blobs: BlobStore) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        to_pt2(network, path)
        return blobs.put_file(path)


def read_selection(
    exported: Exported, view: SplitView, original: AccuracyResult, reading: Reading, target: Target, threads: int
) -> Exported:
    """Accuracy of the exported file on the selection split, and its paired drop against the original's file."""
    result = file_accuracy(exported.file, view, reading, original, target, threads)
    record = exported.record
    record = replace(
        record,
        accuracy={**record.accuracy, "selection": result.value},
        accuracy_interval={**record.accuracy_interval, "selection": result.interval},
        drop_points={**record.drop_points, "selection": drop_points(original, result, view.labels)},
        measurements={**record.measurements, **audited(original, result, view.labels)},
    )
    return replace(exported, record=record)


def with_latency(exported: Sequence[Exported], measured: Mapping[str, Measurement]) -> list[CandidateRecord]:
    """Records whose latency is now the measured one; the prediction stays beside it under its own name."""
    return [
        replace(e.record, measurements={**e.record.measurements, "latency_ms": measured[e.record.candidate_id]}) for e in exported
    ]
