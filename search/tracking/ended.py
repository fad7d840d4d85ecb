"""What the tracker shows of a search that has ended: by the search itself, or later from what the store keeps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from search.environment import SearchOutcome
from search.protocols import CONTAINER, BlobStore, CandidateRecord, CandidateStore, Event
from search.runtimes.onnx_runtime import OnnxFile
from search.tracking.base import metric_name
from search.tracking.outbox import Outbox

UNTRACKED = "untracked"
"""The phase of a search whose end the tracker has not taken whole."""


def log_ended(outbox: Outbox, records: Iterable[CandidateRecord], blobs: BlobStore, outcome: SearchOutcome | None) -> int:
    """Log candidates, the front's models, the report and the best one's numbers, then close the parent run.

    Args:
        records: those that are new or have changed since they were logged last; of two with one id the later counts.
        outcome: None for a search that failed.

    Returns:
        How many entries could not be delivered.
    """
    listed = {record.candidate_id: record for record in records}
    for record in listed.values():
        outbox.candidate(record)
    if outcome is None:
        return outbox.end({}, "FAILED")
    with tempfile.TemporaryDirectory(prefix="paretopress-tracking-") as folder:
        for name in outcome.front:
            files = listed[name].artifacts
            shown = OnnxFile.name if OnnxFile.name in files else CONTAINER  # a target may run another file, which is in there
            outbox.artifact(name, _named(blobs, files[shown], Path(folder) / name / shown), shown)
        if outcome.report_sha256:
            outbox.artifact(None, _named(blobs, outcome.report_sha256, Path(folder) / "report.json"), "report.json")
        best = listed[outcome.best] if outcome.best else None
        metrics = {f"best_{name}": value for name, value in _summary(best).items()} if best else {}
        return outbox.end(metrics, outcome.state)


def remember_untracked(store: CandidateStore, entries: int) -> None:
    """Note what `log_ended` could not deliver; whoever runs searches sends it later (`service.workers.late_tracking`)."""
    if entries:
        words = f"{entries} entries of this search did not reach MLflow; they are sent as soon as it answers"
        store.save_phase(UNTRACKED, {"entries": entries})
        store.append(Event("warning", words))


def _named(blobs: BlobStore, digest: str, path: Path) -> Path:
    """The blob under a name of its own; trackers call a file as it is called on disk."""
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(blobs.local_path(digest).absolute())
    return path


def _summary(best: CandidateRecord) -> dict[str, float]:
    values = {metric_name(name, measurement): measurement.value for name, measurement in best.measurements.items()}
    return {**values, **{f"accuracy_{split}": value for split, value in best.accuracy.items()}}
