"""Image files with labels: from class folders (``[split/]class/image.png``), or from a CSV table beside the images."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from search.dataset_file import SplitName
from service.intake.archives import FileSource
from service.intake.errors import IntakeError, reason, refusing
from service.intake.image_table import SPLIT_ALIASES, EncodedLabels, ImageTable, ReadRequest, encode_texts, parse_split

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"})
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
_FILE_COLUMNS = ("filename", "file", "path", "image")


@dataclass(frozen=True)
class _Entry:
    """One image before it is decoded; ``labels`` is None for label-free data."""

    name: str
    place: str
    labels: tuple[str, ...] | None
    split: SplitName | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Listing:
    entries: list[_Entry]
    several: bool = False
    group_names: tuple[str, ...] = ()
    known_classes: tuple[str, ...] = field(default=())


def read_files(source: FileSource, request: ReadRequest) -> ImageTable:
    """Read a source of image files: by its CSV table if it has one at the top, else by class folders.

    Raises:
        IntakeError: there are no images, or the archive is refused as a whole; single bad files go to the request's log.
    """
    if request.preprocessing.layout != "nhwc":
        message = "layout is about uploaded arrays; image files are always nhwc"
        raise IntakeError("bad_option", message, "preprocessing.layout")
    tables = [n for n in source.files if n.lower().endswith(".csv") and n.count("/") <= 1]
    if len(tables) > 1:
        raise IntakeError("bad_data", f"the archive has {len(tables)} CSV tables ({', '.join(tables[:3])}); leave one", "dataset")
    listing = _list_table(source, tables[0], request) if tables else _list_folders(source, request)
    if not listing.entries:
        request.log.raise_if_refused()
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise IntakeError("bad_data", f"no images found (files ending in {suffixes})", "dataset")
    return _decode(source, listing, request)


def _list_folders(source: FileSource, request: ReadRequest) -> _Listing:
    images: list[tuple[str, tuple[str, ...]]] = []
    for name in source.files:
        path = PurePosixPath(name)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images.append((name, path.parts))
        else:
            request.log.warn(name, "left out: not an image file")
    top = _common_top([parts for _, parts in images])
    images = [(name, parts[top:]) for name, parts in images]
    if all(len(parts) == 1 for _, parts in images):
        if images:
            request.log.warn("dataset", "no class folders: taken as images without labels")
        return _Listing([_Entry(name, name, None) for name, _ in images])
    with_splits = all(len(parts) > 2 and parts[0].lower() in SPLIT_ALIASES for _, parts in images)
    entries = []
    for name, parts in images:
        if len(parts) == 1:
            request.log.bad(name, "lies in no class folder")
            continue
        split = SPLIT_ALIASES[parts[0].lower()] if with_splits else None
        entries.append(_Entry(name, name, (parts[1 if with_splits else 0],), split))
    known = {parts[-1] for parts in _class_folders(source, top, with_splits)}
    _warn_of_numbers({e.labels[0] for e in entries if e.labels} | known, request)
    return _Listing(entries, known_classes=tuple(known | {e.labels[0] for e in entries if e.labels}))


def _common_top(paths: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders hold everything and are neither a split nor the class itself."""
    top = 0
    while paths and all(len(p) - top > 2 for p in paths):
        first = {p[top] for p in paths}
        if len(first) > 1 or first.pop().lower() in SPLIT_ALIASES:
            break
        top += 1
    return top


def _class_folders(source: FileSource, top: int, with_splits: bool) -> list[tuple[str, ...]]:
    depth = top + (2 if with_splits else 1)
    folders = (PurePosixPath(f).parts for f in source.folders)
    return [f for f in folders if len(f) == depth and not (with_splits and f[top].lower() not in SPLIT_ALIASES)]


def _warn_of_numbers(classes: set[str], request: ReadRequest) -> None:
    numbers = [c for c in classes if c.isdecimal()]
    if len(numbers) == len(classes) > 10 and not request.options.class_names:
        what = "class folders are numbers and were sorted as numbers; torchvision's ImageFolder sorts them as text: if the model "
        request.log.warn("classes", what + "was trained with that, state class_names in its order")


def _list_table(source: FileSource, table: str, request: ReadRequest) -> _Listing:
    with refusing("unreadable", f"{table} is not a readable CSV table", "dataset"):
        text = source.read(table).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text), strict=True))
    header = [column.strip().lower() for column in rows[0]] if rows else []
    file_columns = [c for c in _FILE_COLUMNS if c in header]
    if not file_columns or len(set(header)) < len(header):
        raise IntakeError("bad_data", f"{table}: the header needs a column 'filename' and no column twice, got {header}", "dataset")
    file_column = header.index(file_columns[0])
    label_columns = [i for i, c in enumerate(header) if c.startswith("label")]
    split_column = header.index("split") if "split" in header else None
    taken = {file_column, split_column, *label_columns}
    group_columns = [i for i in range(len(header)) if i not in taken]
    request.check_groups(len(group_columns))
    folder, seen, entries = PurePosixPath(table).parent, set[str](), []
    for number, row in enumerate(rows[1:], start=2):
        place = f"{table} row {number}"
        if not row:
            continue
        if len(row) != len(header):
            request.log.bad(place, f"has {len(row)} cells instead of {len(header)}")
            continue
        name = str(folder / row[file_column].strip())
        if name not in source.files:
            request.log.bad(place, f"there is no file {row[file_column]!r}")
        elif name in seen:
            request.log.bad(place, f"file {row[file_column]!r} is listed twice")
        else:
            labels = tuple(row[i].strip() for i in label_columns if row[i].strip()) if label_columns else None
            split = parse_split(row[split_column], place, request.log) if split_column is not None else None
            entries.append(_Entry(name, f"{place} ({name})", labels, split, tuple(row[i].strip() for i in group_columns)))
        seen.add(name)
    order = {name: i for i, name in enumerate(source.files)}
    entries.sort(key=lambda e: order[e.name])
    return _Listing(entries, len(label_columns) > 1, tuple(header[i] for i in group_columns))


def _decode(source: FileSource, listing: _Listing, request: ReadRequest) -> ImageTable:
    entries, p = listing.entries, request.preprocessing
    request.check_pixels(len(entries))
    images = np.empty((len(entries), p.height, p.width, p.channels), np.uint8)
    usable = np.ones(len(entries), np.bool_)
    for position, entry in enumerate(entries):
        try:
            images[position] = p.fit(_open_image(source.read(entry.name), request.limits.image_pixels))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever they come across
            usable[position] = False
            request.log.bad(entry.place, _image_problem(error))
    places = [entry.place for entry in entries]
    encoded = EncodedLabels(None, (), usable)
    if entries[0].labels is not None:
        encoded = encode_texts([e.labels or () for e in entries], places, request, listing.several, listing.known_classes)
    splits = [e.split for e in entries]
    groups = {name: [e.groups[i] for e in entries] for i, name in enumerate(listing.group_names)}
    table = ImageTable(images, places, encoded.labels, encoded.class_names, splits if any(splits) else None, groups)
    return table.keep(usable & encoded.usable)


def _open_image(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_IMAGE_FORMATS)
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.height}x{image.width} pixels are more than the limit of {max_pixels:,}")
    image.load()
    return image


def _image_problem(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is not a PNG, JPEG, WebP, BMP or PNM image"
    return f"cannot be used: {reason(error)}"
