"""The canonical form of a dataset: one safetensors file that is written once and memory-mapped by everybody. No torch.

Tensors: ``images`` uint8 ``(n, height, width, channels)``; ``split`` uint8 ``(n,)``, an index into `SPLITS`; ``labels``
int64 ``(n,)``, or uint8 ``(n, classes)`` of 0 and 1 where an image has several, or absent; ``groups`` int64
``(n, columns)``, indices into the metadata's group values, or absent. The metadata is one JSON text.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from search.preprocessing import Preprocessing

SplitName = Literal["train", "validation", "selection", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "selection", "test")
Augment = Literal["none", "shift", "shift_flip"]
SERVER_SPLIT_NOTE = "split chosen by the server: the model may have seen it"
_KEY = "paretopress.dataset"
_MAX_HEADER_BYTES = 64 << 20
_DTYPES = {"U8": np.uint8, "I64": np.int64}


@dataclass(frozen=True)
class DatasetMetadata:
    """What is known about a dataset beside its tensors.

    Attributes:
        class_names: by class index; empty for label-free data.
        server_splits: the splits that the server chose; empty when all were given.
        group_values: per group column, its values by index.
        augment: what training may do to the images; flips only where the user said that they keep the class.
        problems: warnings noted when the data was taken in, as text.
        remarks: those of them that a report must repeat, such as an order of classes that the model may not have.
        data_sha256: over pixels, labels, splits, groups and preprocessing, hexadecimal.
    """

    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    split_chosen_by: Literal["dataset", "server", "dataset and server"] = "dataset"
    server_splits: tuple[SplitName, ...] = ()
    group_values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    augment: Augment = "shift"
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    data_sha256: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report must say about the data."""
        chosen = ", ".join(self.server_splits)
        return (*((f"{SERVER_SPLIT_NOTE} ({chosen})",) if chosen else ()), *self.remarks)

    def to_json(self) -> str:
        """Canonical text with type and version."""
        data = {**asdict(self), "preprocessing": self.preprocessing.to_json()}
        return json.dumps({"type": "dataset", "version": 1, **data}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> DatasetMetadata:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not a dataset of a known version.
        """
        data = json.loads(text)
        if data.pop("type", None) != "dataset" or data.pop("version", None) != 1:
            raise ValueError("not dataset metadata of a known version")
        tuples = {name: tuple(data.get(name, ())) for name in ("class_names", "server_splits", "problems", "remarks")}
        groups = {name: tuple(values) for name, values in data["group_values"].items()}
        preprocessing = Preprocessing.from_json(data["preprocessing"])
        return DatasetMetadata(**{**data, **tuples, "group_values": groups, "preprocessing": preprocessing})


@dataclass(frozen=True)
class DatasetTensors:
    """The tensors of the module's docstring, in memory or mapped from the file."""

    images: npt.NDArray[np.uint8]
    split: npt.NDArray[np.uint8]
    labels: npt.NDArray[Any] | None = None
    groups: npt.NDArray[np.int64] | None = None

    def named(self) -> dict[str, npt.NDArray[Any]]:
        """Those that are there, by name."""
        every = {"images": self.images, "split": self.split, "labels": self.labels, "groups": self.groups}
        return {name: tensor for name, tensor in every.items() if tensor is not None}


def write(path: Path, tensors: DatasetTensors, metadata: DatasetMetadata) -> DatasetMetadata:
    """Write the file and return the metadata with its ``data_sha256``; the same data gives the same bytes."""
    digest = hashlib.sha256(json.dumps(metadata.preprocessing.to_json(), sort_keys=True).encode())
    for name, tensor in sorted(tensors.named().items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    metadata = replace(metadata, data_sha256=digest.hexdigest())
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.named().items()}
    save_file(arrays, str(path), {_KEY: metadata.to_json()})
    return metadata


def read(path: Path) -> tuple[DatasetTensors, DatasetMetadata]:
    """Map the file: nothing but the header is read.

    Raises:
        ValueError: the file is not a canonical dataset.
    """
    with path.open("rb") as file:
        prefix = file.read(8)
        size = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or not 2 <= size <= _MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} is not a safetensors file")
        header = json.loads(file.read(size))
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    text = header.pop("__metadata__", {}).get(_KEY)
    if text is None or not {"images", "split"} <= set(header):
        raise ValueError(f"{path.name} is a safetensors file, but not a dataset")
    arrays = {name: _array(mapped, entry, 8 + size) for name, entry in header.items()}
    return DatasetTensors(**arrays), DatasetMetadata.from_json(text)


def _array(mapped: mmap.mmap, entry: dict[str, Any], start: int) -> npt.NDArray[Any]:
    begin, end = entry["data_offsets"]
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    return np.frombuffer(mapped, dtype, (end - begin) // dtype.itemsize, start + begin).reshape(entry["shape"])
