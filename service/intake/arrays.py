"""Images that come as numbers: npz archives of arrays, and CSV tables of pixels (one image a row)."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search.dataset_file import SplitName
from service.intake.archives import open_zip
from service.intake.errors import IntakeError, refusing
from service.intake.image_table import EncodedLabels, ImageTable, ReadRequest, encode_numbers, encode_texts, parse_split

_CHUNK = 4096
_PIXEL_COLUMN = re.compile(r"(pixel|px|p)?_?\d+|\d+x\d+")
_LABEL_NAMES = ("labels", "label", "y")
_IMAGE_NAMES = ("images", "image", "x")
_KNOWN_NAMES = (*_LABEL_NAMES, *_IMAGE_NAMES, "split", "class_names", *(f"{a}_{s}" for a in "xy" for s in ("train", "val", "test")))


def read_npz(path: Path, request: ReadRequest) -> ImageTable:
    """Read ``images`` ``(n, h, w[, c])`` with, optionally, ``labels``, ``split``, ``class_names`` and ``group_<name>`` arrays.

    Keras' names ``x_train, y_train, x_test, y_test`` do as well. Pickled (object) arrays are refused.

    Raises:
        IntakeError: no npz, or arrays that do not fit together; single bad images go to the request's log.
    """
    arrays = _load_arrays(path, request)
    if "x_train" in arrays:
        arrays = _merge_keras(arrays)
    images = _first(arrays, _IMAGE_NAMES)
    if images is None:
        raise IntakeError("bad_data", f"the npz has no array 'images', only {sorted(arrays)}", "dataset")
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
    columns |= {name: array for name, array in arrays.items() if name == "groups" or name.startswith("group_")}
    for name, array in columns.items():
        if array is not None and (array.ndim == 0 or len(array) != len(images)):
            raise IntakeError("bad_data", f"{name!r} has shape {array.shape} beside {len(images)} images", name)
    places = _Rows("image", len(images))
    pixels, usable = _to_pixels(_as_nhwc(images, request), places, request)
    encoded = _encode_array(labels, places, request)
    splits = None if columns["split"] is None else _splits(columns["split"], places, request)
    groups = {n.removeprefix("group_"): _texts(a, n) for n, a in columns.items() if n.startswith("group") and a is not None}
    return ImageTable(pixels, places, encoded.labels, encoded.class_names, splits, groups).keep(usable & encoded.usable)


def read_pixel_csv(path: Path, request: ReadRequest) -> ImageTable:
    """Read ``label,pixel0,pixel1,...`` with or without a header; a header may name ``split`` and group columns as well.

    Raises:
        IntakeError: no such table; single bad rows go to the request's log.
    """
    with refusing("unreadable", "not a readable CSV table", "dataset"), path.open(newline="", encoding="utf-8-sig") as file:
        return _read_rows(csv.reader(file, strict=True), request)


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


def _check_headers(path: Path, request: ReadRequest) -> None:
    """Sizes as the headers state them, before anything is allocated."""
    total = 0
    with open_zip(path, request.limits) as archive:
        for count, info in enumerate(archive.infolist(), 1):
            if count > request.limits.group_columns + len(_KNOWN_NAMES):
                raise IntakeError("too_large", f"the npz has {len(archive.infolist())} arrays", "dataset")
            if len(info.filename) > request.limits.text_length:
                words = f"an array's name has {len(info.filename):,} characters, at most {request.limits.text_length:,} are taken"
                raise IntakeError("too_large", words, "dataset")
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read_header(file)
            if min(shape, default=0) < 0 or dtype.itemsize == 0:
                raise ValueError(f"{info.filename} has shape {shape} of {dtype}")
            if dtype.hasobject:
                message = f"{info.filename} is a pickled array; save numbers or fixed-width text (dtype '<U..') instead"
                raise IntakeError("pickled", message, "dataset")
            total += math.prod(shape) * dtype.itemsize
            if math.prod(shape) * dtype.itemsize > info.file_size:
                raise ValueError(f"{info.filename} is shorter than its header says")
            packed = info.compress_size * request.limits.compression_ratio
            if info.file_size > max(1 << 20, packed):
                words = (
                    f"{info.filename}: unpacks to more than {request.limits.compression_ratio} times its size, as a zip bomb does"
                )
                raise IntakeError("too_large", words, "dataset")
            # Floats of 8-bit pixels take up to eight times the room.
            if total > 8 * request.limits.dataset_bytes:
                raise IntakeError("too_large", f"the arrays are {total:,} bytes in all", "dataset")


def _merge_keras(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    parts: list[tuple[str, str]] = [(s, key) for s, key in (("train", "train"), ("validation", "val"), ("test", "test"))]
    found = [(split, key) for split, key in parts if f"x_{key}" in arrays]
    try:
        merged = {"images": np.concatenate([arrays[f"x_{key}"] for _, key in found])}
        if "y_train" in arrays:
            merged["labels"] = np.concatenate([arrays[f"y_{key}"] for _, key in found])
    except (ValueError, KeyError) as error:
        raise IntakeError("bad_data", f"x_train, x_test, y_train, y_test do not fit together: {error}", "dataset") from error
    merged["split"] = np.concatenate([np.full(len(arrays[f"x_{key}"]), split) for split, key in found])
    return merged


def _first(arrays: dict[str, npt.NDArray[Any]], names: Sequence[str]) -> npt.NDArray[Any] | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _as_nhwc(images: npt.NDArray[Any], request: ReadRequest) -> npt.NDArray[Any]:
    """Any accepted shape to ``(n, h, w, c)``, without copying."""
    p = request.preprocessing
    if images.dtype.kind not in "uifb" or images.ndim not in (3, 4) or not len(images):
        message = f"images are {images.dtype} {images.shape}; need numbers (n, h, w), (n, h, w, c) or (n, c, h, w)"
        raise IntakeError("bad_data", message, "images")
    if images.ndim == 3:
        return images[..., None]
    if p.layout == "nchw":
        images = np.moveaxis(images, 1, -1)
    if images.shape[3] != p.channels and images.shape[1] == p.channels:
        right = "nchw" if p.layout == "nhwc" else "nhwc"
        message = f"arrays of shape {images.shape} in layout {p.layout} have {images.shape[3]} channels; is it {right}?"
        raise IntakeError("bad_data", message, "preprocessing.layout")
    return images


def _to_pixels(
    images: npt.NDArray[Any], places: Sequence[str], request: ReadRequest
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Numbers of any type to stated size and 8 bits; bad images are noted and marked unusable."""
    p = request.preprocessing
    request.check_pixels(len(images))
    convert = _pixel_scale(images, request)
    pixels = np.zeros((len(images), p.height, p.width, p.channels), np.uint8)
    usable = np.ones(len(images), np.bool_)
    fits = images.shape[1:] == pixels.shape[1:]
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        values, reasons = convert(chunk)
        for offset, reason in reasons:
            usable[start + offset] = False
            request.log.bad(places[start + offset], reason)
        if fits:
            pixels[start : start + len(chunk)] = values
            continue
        for offset in range(len(chunk)):
            try:
                pixels[start + offset] = p.fit_array(values[offset])
            except ValueError as error:
                usable[start + offset] = False
                request.log.bad(places[start + offset], str(error))
    return pixels, usable


_Convert = Callable[[npt.NDArray[Any]], tuple[npt.NDArray[np.uint8], list[tuple[int, str]]]]


def _pixel_scale(images: npt.NDArray[Any], request: ReadRequest) -> _Convert:
    """How these numbers become 8-bit pixels: as they are, or times 255 where no value is above 1."""
    if images.dtype == np.uint8:
        return lambda chunk: (chunk, [])
    top = max((float(np.nanmax(c, initial=0, where=np.isfinite(c))) for c in _chunks(images)), default=0.0)
    factor = 255.0 if top <= 1 and images.dtype.kind in "fb" else 1.0
    noted = False

    def convert(chunk: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], list[tuple[int, str]]]:
        nonlocal noted
        values = chunk.astype(np.float32) * np.float32(factor)
        flat = values.reshape(len(values), -1)
        finite = np.isfinite(flat).all(axis=1)
        inside = ((flat >= -0.5) & (flat < 255.5)).all(axis=1)
        rounded = np.rint(np.clip(np.nan_to_num(values), 0, 255))
        if not noted and finite.any() and np.abs(rounded[finite] - np.clip(values[finite], 0, 255)).max() > 0.01:
            request.log.warn("images", "the values are not 8-bit pixels and were rounded to them")
            noted = True
        reasons = [(int(i), "holds values that are not finite") for i in np.flatnonzero(~finite)]
        outside = "holds values outside 0..255 (or 0..1): send the raw pixels and state mean and std instead"
        reasons += [(int(i), outside) for i in np.flatnonzero(finite & ~inside)]
        return rounded.astype(np.uint8), sorted(reasons)

    return convert


def _chunks(images: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK]


def _encode_array(labels: npt.NDArray[Any] | None, places: Sequence[str], request: ReadRequest) -> EncodedLabels:
    if labels is None:
        return EncodedLabels(None, (), np.ones(len(places), np.bool_))
    if labels.dtype.kind == "U" and labels.ndim == 1:
        return encode_texts([(str(label),) for label in labels], places, request, several=False)
    return encode_numbers(labels, places, request)


def _splits(values: npt.NDArray[Any], places: Sequence[str], request: ReadRequest) -> list[SplitName | None]:
    return [parse_split(text, places[i], request.log) for i, text in enumerate(_texts(values, "split"))]


def _texts(values: npt.NDArray[Any], name: str) -> list[str]:
    if values.ndim != 1 or values.dtype.kind not in "Uiub":
        raise IntakeError("bad_data", f"{name!r} is {values.dtype} {values.shape}; need (n,) of integers or text", name)
    return [str(value) for value in values.tolist()]


def _read_rows(rows: Iterator[list[str]], request: ReadRequest) -> ImageTable:
    first = next(rows, [])
    names = [cell.strip().lower() for cell in first]
    has_header = any(not _is_number(cell) for cell in names)
    if not has_header:
        names = ["label", *(f"pixel{i}" for i in range(len(first) - 1))]
    if any(column in names for column in ("filename", "file", "path", "image")):
        message = "this CSV names image files: send a zip or tar that holds the CSV and the images"
        raise IntakeError("bad_data", message, "dataset")
    pixel_columns = [i for i, name in enumerate(names) if _PIXEL_COLUMN.fullmatch(name)]
    label_columns = [i for i, name in enumerate(names) if name.startswith("label") or name == "class"]
    shape = _row_shape(len(pixel_columns), request)
    others = [i for i in range(len(names)) if i not in {*pixel_columns, *label_columns}]
    request.check_groups(len(others))
    if len({names[i] for i in others}) < len(others):
        raise IntakeError("bad_data", "the header has a column twice", "dataset")
    images: list[npt.NDArray[np.float32]] = []
    cells: list[list[str]] = []
    places: list[str] = []
    start = pixel_columns[0]
    contiguous = pixel_columns == list(range(start, start + len(pixel_columns)))
    for number, row in enumerate(rows if has_header else _with_first(first, rows), start=2 if has_header else 1):
        if not row:
            continue
        place = f"row {number}"
        if len(row) != len(names):
            request.log.bad(place, f"has {len(row)} cells instead of {len(names)}")
            continue
        try:
            texts = row[start : start + len(pixel_columns)] if contiguous else [row[i] for i in pixel_columns]
            images.append(np.array(texts, np.float32).reshape(shape))
        except ValueError as error:
            request.log.bad(place, f"a pixel is no number: {error}")
            continue
        cells.append([row[i].strip() for i in (*label_columns, *others)])
        places.append(place)
        request.check_pixels(len(images))
    return _from_cells(images, cells, places, [names[i] for i in (*label_columns, *others)], len(label_columns), request)


def _from_cells(
    images: list[npt.NDArray[np.float32]],
    cells: list[list[str]],
    places: list[str],
    names: list[str],
    labels: int,
    request: ReadRequest,
) -> ImageTable:
    if not images:
        request.log.raise_if_refused()
        raise IntakeError("bad_data", "the table has no rows", "dataset")
    pixels, usable = _to_pixels(_as_nhwc(np.stack(images), request), places, request)
    encoded = EncodedLabels(None, (), np.ones(len(places), np.bool_))
    if labels:
        encoded = encode_texts([[t for t in row[:labels] if t] for row in cells], places, request, several=labels > 1)
    columns = {name: [row[i] for row in cells] for i, name in enumerate(names) if i >= labels}
    texts = columns.pop("split", None)
    splits = None if texts is None else [parse_split(t, place, request.log) for t, place in zip(texts, places, strict=True)]
    return ImageTable(pixels, places, encoded.labels, encoded.class_names, splits, columns).keep(usable & encoded.usable)


def _row_shape(pixel_count: int, request: ReadRequest) -> tuple[int, ...]:
    """The shape that a row of pixels has before the resize, in the stated layout."""
    p = request.preprocessing
    side = math.isqrt(pixel_count // p.channels)
    if pixel_count == p.height * p.width * p.channels:
        height, width = p.height, p.width
    elif pixel_count and side * side * p.channels == pixel_count and p.resize != "none":
        height = width = side
    else:
        message = f"rows have {pixel_count} pixel columns, the preprocessing states {p.height}x{p.width}x{p.channels}"
        raise IntakeError("bad_data", message, "preprocessing")
    return (p.channels, height, width) if p.layout == "nchw" else (height, width, p.channels)


def _with_first(first: list[str], rows: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
