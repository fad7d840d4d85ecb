"""npz archives of arrays: images, and optionally labels, split, class names and groups."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search.dataset_file import SplitName
from service.intake.archives import open_zip
from service.intake.errors import IntakeError, refusing
from service.intake.image_table import (
    SPLIT_ALIASES,
    EncodedLabels,
    ImageTable,
    ReadRequest,
    encode_numbers,
    encode_texts,
    parse_split,
)
from service.intake.pixels import as_nhwc, to_pixels

_LABEL_NAMES = ("labels", "label", "y")
_IMAGE_NAMES = ("images", "image", "x")
_PART_IMAGES = {f"x_{part}": split for part, split in SPLIT_ALIASES.items()}
_PART_LABELS = {f"y_{part}": f"x_{part}" for part in SPLIT_ALIASES}
_IMAGES = frozenset({*_IMAGE_NAMES, *_PART_IMAGES})
_LABELS = frozenset({*_LABEL_NAMES, *_PART_LABELS})
_KNOWN_NAMES = frozenset({*_IMAGES, *_LABELS, "split", "class_names"})
_SMALL, _MAX_HEADER_BYTES = 1 << 20, 1 << 16
_FAIR_BYTES_PER_PIXEL = 64
"""Of each pixel that is written: eight for a float, of images up to eight times as large."""
_FAIR_BYTES_PER_CELL = 256
"""Of each label, split or group: 64 characters of text."""


def read_npz(path: Path, request: ReadRequest) -> ImageTable:
    """Read ``images`` ``(n, h, w[, c])`` with, optionally, ``labels``, ``split``, ``class_names`` and ``group_<name>`` arrays.

    Keras' names ``x_train, y_train, x_val, y_val, x_test, y_test`` do as well; ``group_<name>`` arrays beside them have the rows
    of all, in this order. Pickled (object) arrays are refused.

    Raises:
        IntakeError: no npz, or arrays that do not fit together; single bad images go to the request's log.
    """
    arrays = _load_arrays(path, request)
    named = tuple(arrays)
    if any(name in _PART_IMAGES or name in _PART_LABELS for name in arrays):
        arrays = _merge_keras(arrays)
    images = _first(arrays, _IMAGE_NAMES)
    if images is None:
        words = (
            f"the npz has no array 'images', only {sorted(arrays)}; name them: np.savez_compressed(path, images=..., labels=...)"
        )
        raise IntakeError("bad_data", words, "dataset")
    _tell_unread(named, request)
    if images.ndim == 0:
        raise IntakeError("bad_data", f"images are a single {images.dtype}; need (n, h, w), (n, h, w, c) or (n, c, h, w)", "images")
    labels = _first(arrays, _LABEL_NAMES)
    if "class_names" in arrays and not request.options.class_names:
        names = tuple(_texts(arrays["class_names"], "class_names"))
        if len(set(names)) < len(names) or len(names) > request.limits.class_count:
            words = f"class_names has {len(names):,} names; at most {request.limits.class_count:,}, each once, are taken"
            raise IntakeError("bad_data", words, "class_names")
        request = replace(request, options=replace(request.options, class_names=names))
    columns = {"labels": labels, "split": arrays.get("split")}
    columns |= {name: array for name, array in arrays.items() if _is_group(name)}
    for name, array in columns.items():
        if array is not None and (array.ndim == 0 or len(array) != len(images)):
            raise IntakeError("bad_data", f"{name!r} has shape {array.shape} beside {len(images)} images", name)
    places = _Rows("image", len(images))
    pixels, usable = to_pixels(as_nhwc(images, request), places, request)
    encoded = _encode_array(labels, places, request)
    splits = None if columns["split"] is None else _splits(columns["split"], places, request)
    groups = {n.removeprefix("group_"): _texts(a, n) for n, a in columns.items() if n.startswith("group") and a is not None}
    return ImageTable(pixels, places, encoded.labels, encoded.class_names, splits, groups).keep(usable & encoded.usable)


class _Rows(Sequence[str]):
    """``image 0``, ``image 1``, ... without keeping the texts."""

    def __init__(self, prefix: str, count: int) -> None:
        self._prefix, self._count = prefix, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return f"{self._prefix} {index}"


def _load_arrays(path: Path, request: ReadRequest) -> dict[str, npt.NDArray[Any]]:
    with refusing("unreadable", "not a readable npz archive of plain arrays", "dataset"):
        _check_headers(path, request)
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}


@dataclass(frozen=True)
class _Header:
    """What an archive says of one array, before it is read; ``packed_bytes`` are those in the archive."""

    name: str
    shape: tuple[int, ...]
    itemsize: int
    packed_bytes: int

    @property
    def size(self) -> int:
        """Bytes once read."""
        return math.prod(self.shape) * self.itemsize


def _is_group(name: str) -> bool:
    return name == "groups" or name.startswith("group_")


def _tell_unread(named: Sequence[str], request: ReadRequest) -> None:
    """Labels under a name of their own would make the data label-free in silence, and so would a second array of labels."""
    second = {name for names in (_IMAGE_NAMES, _LABEL_NAMES) for name in [n for n in names if n in named][1:]}
    unread = sorted(name for name in named if name in second or not (name in _KNOWN_NAMES or _is_group(name)))
    if unread:
        parts = any(name in _PART_IMAGES for name in named)
        advice = "; labels are read from " + ("'y_train', 'y_test', ..." if parts else "'labels', 'label' or 'y'")
        request.log.note("dataset", f"arrays that are not read: {', '.join(unread[:5])}{'' if _LABELS & {*named} else advice}")


def _check_headers(path: Path, request: ReadRequest) -> None:
    """Sizes as the headers state them, before anything is allocated."""
    limits = request.limits
    headers: dict[str, _Header] = {}
    with open_zip(path, limits) as archive:
        for count, info in enumerate(archive.infolist(), 1):
            if count > limits.group_columns + len(_KNOWN_NAMES):
                raise IntakeError("too_large", f"the npz has {len(archive.infolist())} arrays", "dataset")
            if len(info.filename) > limits.text_length:
                words = f"an array's name has {len(info.filename):,} characters, at most {limits.text_length:,} are taken"
                raise IntakeError("too_large", words, "dataset")
            header = _read_header(archive, info)
            headers[header.name] = header
    _check_ratios(headers.values(), request)
    total = sum(header.size for header in headers.values())
    if total > 8 * limits.dataset_bytes:  # floats of 8-bit pixels take up to eight times the room
        raise IntakeError("too_large", f"the arrays are {total:,} bytes in all", "dataset")


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Header:
    if not info.filename.endswith(".npy"):
        message = f"the npz holds {info.filename}, which is no array; if it is an archive of images, its format is ZIP"
        raise IntakeError("unreadable", message, "dataset")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    if min(shape, default=0) < 0 or dtype.itemsize == 0:
        raise ValueError(f"{info.filename} has shape {shape} of {dtype}")
    if dtype.hasobject:
        message = f"{info.filename} is a pickled array; save numbers or fixed-width text (dtype '<U..') instead"
        raise IntakeError("pickled", message, "dataset")
    header = _Header(info.filename.removesuffix(".npy"), shape, dtype.itemsize, info.compress_size)
    if header.size > info.file_size:
        raise ValueError(f"{info.filename} is shorter than its header says")
    if info.file_size > header.size + _MAX_HEADER_BYTES:
        raise ValueError(f"{info.filename} is longer than its header says")
    return header


def _check_ratios(headers: Collection[_Header], request: ReadRequest) -> None:
    """Refuse arrays that unpack to much more than they take and than the dataset that is made of them.

    Sorted labels, constant columns and black images pack a thousandfold, so the ratio says nothing of an array that is in
    proportion to what will be written: some bytes for each pixel and each image.
    """
    p, ratio = request.preprocessing, request.limits.compression_ratio
    images = sum(header.shape[0] for header in headers if header.name in _IMAGES and header.shape)
    for header in headers:
        rows, columns = (*header.shape, 1, 1)[:2]
        fair = _SMALL
        if header.name in _IMAGES:
            fair = rows * p.height * p.width * p.channels * _FAIR_BYTES_PER_PIXEL
        elif header.name == "class_names":
            fair = min(rows, request.limits.class_count) * _FAIR_BYTES_PER_CELL
        elif len(header.shape) == 1 and rows <= images:
            fair = rows * _FAIR_BYTES_PER_CELL
        elif header.name in _LABELS and len(header.shape) == 2 and rows <= images:
            fair = min(rows * columns, request.limits.dataset_bytes) * 8
        if header.size > max(_SMALL, fair, header.packed_bytes * ratio):
            words = f"{header.name}.npy: unpacks to more than {ratio} times its size, as a zip bomb does"
            raise IntakeError("too_large", f"{words}: {header.size:,} bytes, where {max(_SMALL, fair):,} would do", "dataset")
        if header.name in _IMAGES:
            request.check_pixels(rows)


def _merge_keras(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """One array of images, of labels and of splits, in the order train, validation, test; other arrays stay as they are."""
    _check_parts(arrays)
    found = {name: split for name, split in _PART_IMAGES.items() if name in arrays}
    # One array of both would take the smaller numbers for nearly black.
    tops = {name: float(np.max(array, initial=0)) for name in found if (array := arrays[name]).dtype.kind in "uifb"}
    if tops and 0 < min(tops.values()) <= 1 < max(tops.values()):
        shown = ", ".join(f"{name} up to {top:g}" for name, top in tops.items())
        raise IntakeError("bad_data", f"the images of the splits are not of one scale: {shown}; save them all as 0..255", "images")
    merged = {name: array for name, array in arrays.items() if name not in _PART_IMAGES and name not in _PART_LABELS}
    labels = [name for name in _PART_LABELS if name in arrays]
    try:
        merged["images"] = np.concatenate([arrays[name] for name in found])
        if labels:
            merged["labels"] = np.concatenate([arrays[name] for name in labels])
    except ValueError as error:
        raise IntakeError("bad_data", f"{', '.join([*found, *labels])} do not fit together: {error}", "dataset") from error
    merged["split"] = np.concatenate([np.full(len(arrays[name]), split) for name, split in found.items()])
    return merged


def _check_parts(arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Refuse labels without their images, images without their labels, and arrays that would say the same again.

    Raises:
        IntakeError: its field is the array to blame.
    """
    parts = [name for name in arrays if name in _PART_IMAGES or name in _PART_LABELS]
    labelled = any(name in _PART_LABELS for name in parts)
    for name in arrays:
        if name in {*_IMAGE_NAMES, *_LABEL_NAMES, "split"}:
            raise IntakeError("bad_data", f"the npz has {name!r} beside {', '.join(parts)}; leave it, or those", name)
    for labels, images in _PART_LABELS.items():
        if labels in arrays and images not in arrays:
            raise IntakeError("bad_data", f"the npz has {labels!r}, but no {images!r}", labels)
        if images in arrays and labelled and labels not in arrays:
            raise IntakeError("bad_data", f"the npz has labels for other images, but no {labels!r} beside {images!r}", images)
        if labels in arrays and arrays[labels].shape[:1] != arrays[images].shape[:1]:
            words = f"{labels!r} has shape {arrays[labels].shape} beside {images!r} of shape {arrays[images].shape}"
            raise IntakeError("bad_data", words, labels)


def _first(arrays: dict[str, npt.NDArray[Any]], names: Sequence[str]) -> npt.NDArray[Any] | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _encode_array(labels: npt.NDArray[Any] | None, places: Sequence[str], request: ReadRequest) -> EncodedLabels:
    if labels is None:
        return EncodedLabels(None, (), np.ones(len(places), np.bool_))
    if labels.dtype.kind == "S":
        with refusing("bad_data", "labels are bytes that are no text in UTF-8", "labels"):
            labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "U" and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "U" and labels.ndim == 1:
        return encode_texts([(text,) if (text := str(label).strip()) else () for label in labels], places, request, several=False)
    return encode_numbers(labels, places, request)


def _splits(values: npt.NDArray[Any], places: Sequence[str], request: ReadRequest) -> list[SplitName | None]:
    return [parse_split(text, places[i], request.log) for i, text in enumerate(_texts(values, "split"))]


def _texts(values: npt.NDArray[Any], name: str) -> list[str]:
    if values.dtype.kind == "S":
        with refusing("bad_data", f"{name!r} are bytes that are no text in UTF-8", name):
            values = np.char.decode(values, "utf-8")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "Uiub":
        raise IntakeError("bad_data", f"{name!r} is {values.dtype} {values.shape}; need (n,) of integers or text", name)
    return [str(value) for value in values.tolist()]
