"""What the sandbox child does with a dataset: read it by its format, check it, choose splits, write the canonical file."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search.dataset_file import SPLITS, DatasetMetadata, DatasetTensors, write
from search.preprocessing import Preprocessing
from service.intake.archives import FileSource, FolderSource, TarSource, ZipSource
from service.intake.arrays import read_npz
from service.intake.errors import IntakeError, ProblemLog
from service.intake.foreign_files import refuse_foreign
from service.intake.image_table import DatasetOptions, ImageTable, ReadRequest
from service.intake.labelled_files import read_files
from service.intake.limits import IntakeLimits, check_file
from service.intake.pixel_table import read_pixel_csv
from service.intake.splits import choose_splits

_MIN_SPLIT = 10
_SOURCES: dict[str, type[FileSource]] = {"zip": ZipSource, "tar": TarSource, "folder": FolderSource}


def read_dataset(
    path: str, format: str, preprocessing: dict[str, Any], options: dict[str, Any], limits: dict[str, Any], out: str
) -> dict[str, Any]:
    """Entry point in the child: JSON in, the fields of `DatasetFacts` out.

    Raises:
        IntakeError: with every problem found.
    """
    chosen = DatasetOptions(**{**options, "class_names": tuple(options.get("class_names", ()))})
    request = ReadRequest(Preprocessing.from_json(preprocessing), chosen, IntakeLimits(**limits), ProblemLog(chosen.skip_bad))
    table = _read(Path(path), _actual_format(Path(path), format), request)
    return _finish(table, request, Path(out))


def _actual_format(path: Path, format: str) -> str:
    """A folder is read as one whatever it was called; a table of file names comes inside the archive of its images."""
    if path.is_dir():
        return "folder"
    if format not in ("csv", "zip", "tar") or not path.is_file():
        return format
    with path.open("rb") as file:
        start = file.read(512)
    is_tar = start[257:262] == b"ustar" or start[:3] in (b"\x1f\x8b\x08", b"BZh") or start[:6] == b"\xfd7zXZ\0"
    return "zip" if start[:4] in (b"PK\3\4", b"PK\5\6") else "tar" if is_tar else format


def _read(path: Path, format: str, request: ReadRequest) -> ImageTable:
    if format in _SOURCES:
        if format != "folder":
            check_file(path, request.limits.dataset_bytes, "dataset")
            refuse_foreign(path)
        source = _SOURCES[format](path, request.limits, request.log)
        try:
            return read_files(source, request)
        finally:
            source.close()
    check_file(path, request.limits.dataset_bytes, "dataset")
    refuse_foreign(path)
    return read_npz(path, request) if format == "npz" else read_pixel_csv(path, request)


def _finish(table: ImageTable, request: ReadRequest, out: Path) -> dict[str, Any]:
    log, options = request.log, request.options
    request.check_texts(table.class_names, "class_names")
    _warn_of_empty_classes(table, log)
    log.raise_if_refused()
    if not len(table.images):
        raise IntakeError("bad_data", "no usable image is left", "dataset", log.listed, log.warning_count)
    chosen = choose_splits(table.splits, table.labels, len(table.images), options.seed, log)
    _warn_of_shared_images(table, chosen.split, log)
    for name, texts in table.groups.items():
        request.check_texts({name, *texts}, "group_columns")
    groups, group_values = _index_groups(table)
    _refuse_one_class(table)
    _tell_units(request)
    _tell_small_splits(table, chosen.split, log)
    metadata = DatasetMetadata(
        preprocessing=request.preprocessing,
        class_names=table.class_names,
        split_chosen_by=chosen.chosen_by,
        server_splits=chosen.server_splits,
        group_values=group_values,
        augment=options.augment,
        problems=tuple(str(p) for p in log.listed),
        remarks=tuple(log.notes),
    )
    metadata = write(out, DatasetTensors(table.images, chosen.split, table.labels, groups), metadata)
    return {
        "path": str(out),
        "data_sha256": metadata.data_sha256,
        "images": len(table.images),
        "class_names": list(table.class_names),
        "has_labels": table.labels is not None,
        "has_several_labels": table.labels is not None and table.labels.ndim > 1,
        "split_counts": {name: int((chosen.split == i).sum()) for i, name in enumerate(SPLITS)},
        "split_chosen_by": metadata.split_chosen_by,
        "notes": list(metadata.notes),
        "group_values": {name: list(values) for name, values in group_values.items()},
        "problems": [asdict(p) for p in log.listed],
        "problem_count": log.error_count + log.warning_count,
    }


def _warn_of_empty_classes(table: ImageTable, log: ProblemLog) -> None:
    if table.labels is None or not len(table.labels):
        return
    labels = table.labels
    counts = labels.sum(axis=0) if labels.ndim > 1 else np.bincount(labels, minlength=len(table.class_names))
    for name, count in zip(table.class_names, counts.tolist(), strict=True):
        if count == 0:
            log.warn(f"class {name!r}", "has no image")


def _refuse_one_class(table: ImageTable) -> None:
    """Where every image has the one class, any network that always answers it is perfect, and a search would find that one."""
    if table.labels is None or table.labels.ndim > 1 or len(np.unique(table.labels)) > 1:
        return
    name = table.class_names[int(table.labels[0])]
    message = (
        f"all {len(table.images)} images are of one class, {name!r}; a search needs at least two. Add images of the others, or "
    )
    raise IntakeError("bad_data", message + "leave the labels out: outputs are then compared with the original's", "labels")


def _tell_units(request: ReadRequest) -> None:
    p = request.preprocessing
    if p.range == "0..255" and 0 < max(map(abs, p.mean)) <= 1:
        request.log.note("preprocessing.mean", f"is {max(p.mean):g} at most, of 0..255: was it meant for range 0..1?")


def _tell_small_splits(table: ImageTable, split: npt.NDArray[np.uint8], log: ProblemLog) -> None:
    """An accuracy on a handful of images says nothing; which is no fault of an image, so that the notes alone tell it."""
    classes = 0 if table.labels is None or table.labels.ndim > 1 else len(np.unique(table.labels))
    enough = max(_MIN_SPLIT, classes)
    sizes = {name: int((split == index).sum()) for index, name in enumerate(SPLITS) if index}
    small = {name: size for name, size in sizes.items() if size < enough}
    if small:
        shown = ", ".join(f"{name} has {size}" for name, size in small.items())
        point = 100 / min(small.values())
        what = f"splits are small: {shown} images, where one image is up to {point:.3g} points of accuracy"
        log.notes.append(f"{what}; a drop of one point takes at least 100 images in each to be seen, a tenth of it 1,000")


def _warn_of_shared_images(table: ImageTable, split: npt.NDArray[np.uint8], log: ProblemLog) -> None:
    """Identical pixels in train and in a held-out split make its accuracy too good."""
    digests = [hashlib.blake2b(image.data, digest_size=16).digest() for image in table.images]
    train = {digests[i]: i for i in np.flatnonzero(split == 0).tolist()}
    for index in range(1, len(SPLITS)):
        shared = [i for i in np.flatnonzero(split == index).tolist() if digests[i] in train]
        if shared:
            example = f"{table.places[shared[0]]} and {table.places[train[digests[shared[0]]]]}"
            log.warn(f"split {SPLITS[index]}", f"{len(shared)} images are in train as well, such as {example}")


def _index_groups(table: ImageTable) -> tuple[npt.NDArray[np.int64] | None, dict[str, tuple[str, ...]]]:
    if not table.groups:
        return None, {}
    columns, values = [], {}
    for name, texts in table.groups.items():
        unique, inverse = np.unique(np.array(texts), return_inverse=True)
        columns.append(inverse.reshape(-1).astype(np.int64))
        values[name] = tuple(str(v) for v in unique.tolist())
    return np.stack(columns, axis=1), values
