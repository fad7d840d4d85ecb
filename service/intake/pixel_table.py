"""CSV tables of pixels: one image a row, its label in the first or the last cell, or where a header says."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.intake.csv_rows import column_name, is_row_number, rows_of_file
from service.intake.errors import IntakeError, refusing
from service.intake.image_table import EncodedLabels, ImageTable, ReadRequest, parse_split
from service.intake.label_columns import choose_columns, encode_columns, looks_like_labels
from service.intake.pixels import as_nhwc, to_pixels

_PIXEL_COLUMN = re.compile(r"(pixel|px|p)?_?\d+|\d+x\d+")
_LOOKED_AT = 100_000
_Rows = Iterator[tuple[int, list[str]]]


@dataclass(frozen=True)
class _Columns:
    """Places of pixels, of what may be labels and of everything else (split, groups) that is kept, in rows of ``width`` cells."""

    width: int
    pixels: tuple[int, ...]
    labels: tuple[int, ...] = ()
    label_names: tuple[str, ...] = ("label",)
    others: tuple[int, ...] = ()
    other_names: tuple[str, ...] = ()


def read_pixel_csv(path: Path, request: ReadRequest) -> ImageTable:
    """Read a table of pixels with or without a header; a header may name ``split`` and group columns as well.

    Raises:
        IntakeError: no such table; single bad rows go to the request's log.
    """
    return read_pixel_rows(lambda: rows_of_file(path), request)


def read_pixel_rows(rows: Callable[[], _Rows], request: ReadRequest) -> ImageTable:
    """The same for rows that can be read again and again, with their numbers."""
    with refusing("unreadable", "not a readable CSV table", "dataset"):
        first = next(rows(), (1, []))[1]
        if not (_is_counted(first) or _is_data(first)):
            return _read_table(itertools.islice(rows(), 1, None), _columns_of(first, request), request)
        start = 1 if _is_counted(first) else 0
        columns = _headless_columns(itertools.islice(rows(), start, None), len(first), request)
        return _read_table(itertools.islice(rows(), start, None), columns, request)


def _columns_of(first: Sequence[str], request: ReadRequest) -> _Columns:
    names = [column_name(cell) for cell in first]
    if any(column in names for column in ("filename", "file", "path", "image")):
        message = "this CSV names image files: send a zip or tar that holds the CSV and the images"
        raise IntakeError("bad_data", message, "dataset")
    pixels = tuple(i for i, name in enumerate(names) if _PIXEL_COLUMN.fullmatch(name))
    labels = tuple(i for i, name in enumerate(names) if looks_like_labels(name))
    others = tuple(i for i in range(len(names)) if i not in {*pixels, *labels} and not is_row_number(names[i]))
    _row_shape(len(pixels), request)
    request.check_groups(len(others))
    kept = tuple(names[i] for i in others)
    named = [names[i] for i in (*labels, *others)]
    if len(set(named)) < len(named):
        raise IntakeError("bad_data", "the header has a column twice", "dataset")
    groups = [name for name in kept if name != "split"]
    if not labels and groups:
        what = f"no column is called label: the images are taken as label-free and {', '.join(groups)} as groups"
        request.log.note("dataset", f"{what}; call the column label if it names the classes")
    return _Columns(len(names), pixels, labels, tuple(names[i] for i in labels), others, kept)


def _is_counted(first: Sequence[str]) -> bool:
    """A header that only numbers its columns, as pandas writes one for a bare array."""
    return len(first) > 1 and list(first) in ([str(i) for i in range(len(first))], [str(i + 1) for i in range(len(first))])


def _is_data(first: Sequence[str]) -> bool:
    """No header: numbers alone, or beside them one word at an end, which is the label."""
    words = [i for i, cell in enumerate(first) if not _is_number(cell)]
    if not words:
        return True
    if words not in ([0], [len(first) - 1]) or looks_like_labels(column_name(first[words[0]])):
        return False
    return not _is_counted([cell for i, cell in enumerate(first) if i not in words])


def _read_table(rows: _Rows, columns: _Columns, request: ReadRequest) -> ImageTable:
    images: list[npt.NDArray[np.float32]] = []
    cells: list[list[str]] = []
    places: list[str] = []
    start, count = columns.pixels[0], len(columns.pixels)
    contiguous = columns.pixels == tuple(range(start, start + count))
    shape = _row_shape(count, request)
    for place, row in _whole_rows(rows, columns.width, request):
        try:
            texts = row[start : start + count] if contiguous else [row[i] for i in columns.pixels]
            images.append(np.array(texts, np.float32).reshape(shape))
        except ValueError as error:
            request.log.bad(place, f"a pixel is no number: {error}")
            continue
        cells.append([row[i] for i in (*columns.labels, *columns.others)])
        places.append(place)
        request.check_pixels(len(images))
    if not images:
        request.log.raise_if_refused()
        raise IntakeError("bad_data", "the table has no rows", "dataset")
    names = (*columns.label_names[: len(columns.labels)], *columns.other_names)
    maybe = [row[: len(columns.labels)] for row in cells]
    labels = choose_columns(names[: len(columns.labels)], maybe, "dataset", request)
    named = {name: [row[i] for row in cells] for i, name in enumerate(names) if i not in labels}
    request.check_groups(len(named))
    pixels, usable = to_pixels(as_nhwc(np.stack(images), request), places, request)
    encoded = EncodedLabels(None, (), np.ones(len(places), np.bool_))
    if labels:
        encoded = encode_columns([names[i] for i in labels], [[row[i] for i in labels] for row in cells], places, request)
    splits = named.pop("split", None)
    given = None if splits is None else [parse_split(t, place, request.log) for t, place in zip(splits, places, strict=True)]
    return ImageTable(pixels, places, encoded.labels, encoded.class_names, given, named).keep(usable & encoded.usable)


def _headless_columns(rows: _Rows, width: int, request: ReadRequest) -> _Columns:
    """Rows without names: as many cells as pixels, or one more, which is the label, in the first place or in the last.

    Raises:
        IntakeError: another number of cells, or both ends look like labels, or neither does; with the line that tells them.
    """
    if _fits(width, request) and not _fits(max(0, width - 1), request):
        request.log.note("dataset", "the rows hold pixels only: taken as images without labels")
        return _Columns(width, tuple(range(width)))
    _row_shape(max(0, width - 1), request)
    ends = [(row[0], row[-1]) for _, row in itertools.islice(rows, _LOOKED_AT) if len(row) == width]
    first, last = (_likeness_to_labels([end[i] for end in ends]) for i in (0, 1))
    if first == last:
        lines = f"label,{_pixel_names(width - 1)} or {_pixel_names(width - 1)},label"
        which = "both its first and last cells look" if first else "neither its first nor its last cells look"
        message = f"the table has no header, and {which} like labels; put a first line: {lines}"
        raise IntakeError("bad_data", message, "dataset")
    label = 0 if first > last else width - 1
    return _Columns(width, tuple(i for i in range(width) if i != label), (label,))


def _likeness_to_labels(cells: Sequence[str]) -> int:
    """3 for words, 2 for all of 0..k or 1..k well mixed, 1 for whole numbers that come again, 0 for what can only be a pixel.

    A pixel at the border is mostly one value, so that a column with nine in ten alike is no better than 1.
    """
    counts = Counter(cells)
    if not all(map(_is_number, counts)):
        return 3
    numbers = {float(value) for value in counts}
    if len(numbers) < 2 or not all(n.is_integer() and n >= 0 for n in numbers):
        return 0
    low, high = min(numbers), max(numbers)
    if low <= 1 and len(numbers) == high - low + 1 and max(counts.values()) <= 0.9 * len(cells):
        return 2
    return 1 if len(numbers) <= min(256, len(cells) / 2) and high != 255 else 0


def _pixel_names(count: int) -> str:
    return f"pixel0,...,pixel{count - 1}"


def _whole_rows(rows: _Rows, width: int, request: ReadRequest) -> Iterator[tuple[str, list[str]]]:
    for number, row in rows:
        if len(row) == width:
            yield f"row {number}", row
        else:
            request.log.bad(f"row {number}", f"has {len(row)} cells instead of {width}")


def _fits(pixel_count: int, request: ReadRequest) -> bool:
    try:
        return bool(_row_shape(pixel_count, request))
    except IntakeError:
        return False


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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text  # Python reads 1_0 as 10; it is a name
