"""Datasets come in here: the calling process checks names and options, a sandbox child reads the data."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from search.dataset_file import Augment
from search.preprocessing import Preprocessing
from service.intake.errors import IntakeError, Problem
from service.intake.image_table import DatasetOptions
from service.intake.limits import IntakeLimits
from service.intake.sandbox import SandboxLimits, run_in_sandbox

DatasetFormat = Literal["npz", "csv", "zip", "tar", "folder"]
CANONICAL_NAME = "dataset.safetensors"


@dataclass(frozen=True)
class DatasetFacts:
    """What was found in a dataset that is accepted.

    Attributes:
        path: the canonical file (`search.dataset_file`), in the scratch folder.
        data_sha256: over pixels, labels, splits, groups and preprocessing.
        split_counts: images per split.
        split_chosen_by: ``dataset``, ``server`` or ``dataset and server``.
        notes: what a report must say about the data.
        problems: warnings, one by one up to a hundred; ``problem_count`` counts all.
    """

    path: Path
    data_sha256: str
    images: int
    class_names: tuple[str, ...]
    has_labels: bool
    has_several_labels: bool
    split_counts: dict[str, int]
    split_chosen_by: str
    notes: tuple[str, ...]
    group_values: dict[str, tuple[str, ...]]
    problems: tuple[Problem, ...]
    problem_count: int

    @staticmethod
    def from_json(data: dict[str, Any]) -> DatasetFacts:
        """Read what the sandbox child answered."""
        return DatasetFacts(
            **{
                **data,
                "path": Path(data["path"]),
                "class_names": tuple(data["class_names"]),
                "notes": tuple(data["notes"]),
                "group_values": {name: tuple(values) for name, values in data["group_values"].items()},
                "problems": tuple(Problem(**p) for p in data["problems"]),
            }
        )


def import_dataset(
    path: Path,
    format: DatasetFormat,
    preprocessing: Preprocessing,
    options: DatasetOptions | None = None,
    *,
    scratch: Path,
    limits: IntakeLimits | None = None,
    sandbox: SandboxLimits | None = None,
) -> DatasetFacts:
    """Read an upload (or a resolved server-side path) in a sandbox and leave the canonical file in ``scratch``.

    Raises:
        InvalidSpecError: the preprocessing is impossible; with every bad field.
        IntakeError: bad options, or a dataset that is refused; with its problems one by one.
        SandboxError: the reader ran out of time or memory, or crashed.
    """
    options = options or DatasetOptions()
    if format not in get_args(DatasetFormat):
        raise IntakeError("bad_option", f"format must be one of {list(get_args(DatasetFormat))}, got {format!r}", "format")
    if options.augment not in get_args(Augment):
        raise IntakeError("bad_option", f"augment must be one of {list(get_args(Augment))}, got {options.augment!r}", "augment")
    if len(set(options.class_names)) < len(options.class_names):
        raise IntakeError("bad_option", "class_names has a name twice", "class_names")
    if options.seed < 0:
        raise IntakeError("bad_option", f"seed must not be negative, got {options.seed}", "seed")
    arguments = {
        "path": str(path.resolve()),
        "format": format,
        "preprocessing": preprocessing.validated().to_json(),
        "options": asdict(options),
        "limits": asdict(limits or IntakeLimits()),
        "out": str(scratch.resolve() / CANONICAL_NAME),
    }
    return DatasetFacts.from_json(
        run_in_sandbox("service.intake.dataset_readers:read_dataset", arguments, sandbox, scratch, [path])
    )


def format_of(path: Path) -> DatasetFormat:
    """The format of a file or folder by its name.

    Raises:
        IntakeError: none of the known ones.
    """
    name = path.name.lower()
    if path.is_dir():
        return "folder"
    for suffixes, format in _SUFFIXES:
        if name.endswith(suffixes):
            return format
    if zipfile.is_zipfile(path):
        return "zip"
    known = ", ".join(suffix for suffixes, _ in _SUFFIXES for suffix in suffixes)
    advice = "save arrays with np.savez_compressed, pack image files as a zip"
    raise IntakeError("bad_option", f"{path.name}: cannot tell the format; known are folders and {known}: {advice}", "format")


_SUFFIXES: tuple[tuple[tuple[str, ...], DatasetFormat], ...] = (
    ((".npz",), "npz"),
    ((".csv", ".tsv"), "csv"),
    ((".zip",), "zip"),
    ((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), "tar"),
)
