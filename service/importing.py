"""From an uploaded file to blobs and facts: calls intake (which opens the file in a sandbox) and keeps what it left."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from search.protocols import BlobStore
from service.converters.inputs import DatasetRequest, ModelUpload
from service.intake.datasets import DatasetFormat, import_dataset
from service.intake.image_table import DatasetOptions
from service.intake.models import ModelFormat, ModelOptions, import_model

LEFT_OVER_AFTER_S = 24 * 3600.0


class Importer(Protocol):
    """Turns files into the facts that `service.store.input_store` keeps. Blocks; call it from a thread."""

    def model(self, path: Path, request: ModelUpload) -> Mapping[str, Any]:
        """Open a model and store its canonical network, ONNX file and operator graph."""
        ...

    def dataset(self, path: Path, request: DatasetRequest) -> Mapping[str, Any]:
        """Read a dataset and store its canonical file."""
        ...


class SandboxImporter:
    """The real one.

    Args:
        scratch_root: where scratch folders are made; on the disk of the blobs, not in memory.
    """

    def __init__(self, blobs: BlobStore, scratch_root: Path) -> None:
        self._blobs = blobs
        self._scratch_root = scratch_root
        scratch_root.mkdir(parents=True, exist_ok=True)
        _remove_left_over(scratch_root)

    def model(self, path: Path, request: ModelUpload) -> Mapping[str, Any]:
        """Open a model.

        Raises:
            IntakeError: it is refused; says what and where.
            SandboxError: reading it took too much, or crashed.
        """
        with tempfile.TemporaryDirectory(dir=self._scratch_root) as folder:
            options = ModelOptions(**request.options)
            upload = Path(folder) / "upload"  # messages name the file; its name in the store means nothing to the user
            try:
                os.link(path, upload)
            except OSError:  # another disk, or one without links
                shutil.copyfile(path, upload)
            facts = import_model(upload, cast(ModelFormat, request.format), options, scratch=Path(folder))
            return {
                "type": "model_facts",
                "version": 1,
                "architecture": options.architecture,
                "canonical_sha256": self._blobs.put_file(facts.network_path),
                "onnx_sha256": self._blobs.put_file(facts.onnx_path),
                "graph_sha256": self._blobs.put_file(facts.operator_graph_path),
                **facts.to_json(),
            }

    def dataset(self, path: Path, request: DatasetRequest) -> Mapping[str, Any]:
        """Read a dataset.

        Raises:
            IntakeError: it is refused; with its problems one by one.
            SandboxError: reading it took too much, or crashed.
        """
        with tempfile.TemporaryDirectory(dir=self._scratch_root) as folder:
            options = DatasetOptions(**{**request.options, "class_names": tuple(request.options.get("class_names", ()))})
            kind = cast(DatasetFormat, request.format)
            facts = import_dataset(path, kind, request.preprocessing, options, scratch=Path(folder))
            problems = [{"place": p.place, "what": p.what} for p in facts.problems]
            return {
                "type": "dataset_facts",
                "version": 1,
                "canonical_sha256": self._blobs.put_file(facts.path),
                "data_sha256": facts.data_sha256,
                "preprocessing": json.loads(json.dumps(request.preprocessing.to_json())),
                "image_count": facts.images,
                "class_names": list(facts.class_names),
                "labeled": facts.has_labels,
                "split_sizes": dict(facts.split_counts),
                "split_note": "; ".join(n for n in facts.notes if n.startswith("split"))
                or f"split chosen by the {facts.split_chosen_by}",
                "notes": list(facts.notes),
                "group_columns": sorted(facts.group_values),
                "problems": problems,
                "problem_count": facts.problem_count,
            }


def _remove_left_over(scratch_root: Path) -> None:
    """Drop the folders of servers that were killed; a living one's are younger than any reader may take."""
    for folder in scratch_root.iterdir():
        if folder.stat().st_mtime < time.time() - LEFT_OVER_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)
