"""Datasets in all their packings, and the way into the intake without its sandbox: what its tests share."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.dataset_file import read
from search.preprocessing import Preprocessing
from service.intake.dataset_readers import read_dataset
from service.intake.datasets import DatasetFacts
from service.intake.errors import IntakeError
from service.intake.image_table import DatasetOptions
from service.intake.limits import IntakeLimits

SMALL = Preprocessing(4, 4, 1)
STRETCHED = Preprocessing(4, 4, 1, resize="stretch")


def take_in(
    path: Path,
    format: str,
    preprocessing: Preprocessing = SMALL,
    options: DatasetOptions | None = None,
    limits: IntakeLimits | None = None,
) -> DatasetFacts:
    """The child's part, in this process."""
    out = path.parent / "canonical.safetensors"
    options, limits = options or DatasetOptions(), limits or IntakeLimits()
    return DatasetFacts.from_json(
        read_dataset(str(path), format, preprocessing.to_json(), asdict(options), asdict(limits), str(out))
    )


def refused(path: Path, format: str, **given: Any) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        take_in(path, format, **given)
    return caught.value


def png(value: int, size: tuple[int, int] = (4, 4), mode: str = "L", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    color = value if mode == "L" else (value,) * len(mode)
    Image.new(mode, size, color).save(buffer, kind)
    return buffer.getvalue()


def class_folders(prefix: str = "", per_class: int = 10, start: int = 0) -> dict[str, bytes]:
    return {f"{prefix}{name}/{i}.png": png(start + 20 * c + i) for c, name in enumerate(("cat", "dog")) for i in range(per_class)}


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def arrays(count: int = 40, **more: Any) -> dict[str, Any]:
    images = np.arange(count * 16, dtype=np.int64).reshape(count, 4, 4) % 251
    return {"images": images.astype(np.uint8), "labels": np.arange(count) % 4, **more}


def npz_of(path: Path, **named: Any) -> Path:
    np.savez(path, **named)
    return path


def labels_of(facts: DatasetFacts) -> list[int]:
    labels = read(facts.path)[0].labels
    assert labels is not None
    return [int(label) for label in labels]


def pixels_of(facts: DatasetFacts) -> Any:
    return read(facts.path)[0].images


def saved(mode: str, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4), options.pop("color", 7)).save(buffer, kind, **options)
    return buffer.getvalue()


def words(facts: DatasetFacts) -> str:
    return " | ".join([*map(str, facts.problems), *facts.notes])
