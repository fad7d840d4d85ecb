"""Image files with labels: from class folders (``[split/]class/image.png``), or from a CSV table beside the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from search.dataset_file import SplitName
from service.intake.archives import FileSource
from service.intake.csv_rows import rows_of
from service.intake.errors import IntakeError
from service.intake.file_table import Entry, Listing, list_table
from service.intake.image_files import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, ImageReader, image_problem
from service.intake.image_table import SPLIT_ALIASES, EncodedLabels, ImageTable, ReadRequest
from service.intake.label_columns import encode_columns
from service.intake.pixel_table import read_pixel_rows

_TABLE_SUFFIXES = (".csv", ".tsv")


def read_files(source: FileSource, request: ReadRequest) -> ImageTable:
    """Read a source of image files: by its CSV table if it has one at the top, else by class folders.

    A table without any image beside it is one of pixels.

    Raises:
        IntakeError: there are no images, or the archive is refused as a whole; single bad files go to the request's log.
    """
    tables = [n for n in source.files if n.lower().endswith(_TABLE_SUFFIXES) and n.count("/") <= 1]
    if len(tables) > 1:
        raise IntakeError("bad_data", f"the archive has {len(tables)} CSV tables ({', '.join(tables[:3])}); leave one", "dataset")
    images = [name for name in source.files if _suffix(name) in IMAGE_SUFFIXES]
    if tables and not images:
        data = source.read(tables[0])
        return read_pixel_rows(lambda: rows_of(data), request)
    if request.preprocessing.layout != "nhwc":
        message = "layout is about uploaded arrays; image files are always nhwc"
        raise IntakeError("bad_option", message, "preprocessing.layout")
    _tell_left_out([name for name in source.files if name not in tables], request)
    listing = list_table(source, tables[0], images, request) if tables else _list_folders(source, images, request)
    if not listing.entries:
        request.log.raise_if_refused()
        found = ", ".join(f"{suffix or 'no suffix'} ({count})" for suffix, count in _kinds(source.files).most_common(5))
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise IntakeError("bad_data", f"no images found (files ending in {suffixes}), only {found or 'nothing'}", "dataset")
    return _decode(source, listing, request)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _kinds(names: Sequence[str] | dict[str, int]) -> Counter[str]:
    return Counter(_suffix(name) for name in names)


def _tell_left_out(names: Sequence[str], request: ReadRequest) -> None:
    """Pictures of a kind that is not read refuse the dataset; other files are left out with a word, and counted by kind."""
    others = [name for name in names if _suffix(name) not in IMAGE_SUFFIXES]
    for name in others:
        if _suffix(name) in OTHER_IMAGE_SUFFIXES:
            request.log.bad(name, f"{_suffix(name)} files are not read; convert them to PNG")
        else:
            request.log.warn(name, "left out: not an image file")
    if others:
        kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in _kinds(others).most_common(5))
        request.log.notes.append(f"files left out, since they are no images: {kinds}")


def _list_folders(source: FileSource, images: Sequence[str], request: ReadRequest) -> Listing:
    paths = {name: PurePosixPath(name).parts for name in images}
    top = _common_top(list(paths.values()))
    paths = {name: parts[top:] for name, parts in paths.items()}
    depths = {len(parts) for parts in paths.values()}
    firsts = {parts[0] for parts in paths.values() if len(parts) > 1}
    splits = {first for first in firsts if first.lower() in SPLIT_ALIASES}
    if depths <= {1}:
        if images:
            request.log.warn("dataset", "no class folders: taken as images without labels")
        return Listing([Entry(name, name, None) for name in images])
    if depths == {2} and firsts == splits:
        request.log.warn("dataset", "no class folders below those of the splits: taken as images without labels")
        return Listing([Entry(name, name, None, SPLIT_ALIASES[parts[0].lower()]) for name, parts in paths.items()])
    with_splits = min(depths) > 2 and firsts == splits
    if splits and not with_splits:
        _tell_split_among_classes(splits, firsts, request)
    known = {parts[-1] for parts in _class_folders(source, top, with_splits)}
    if depths == {2} and len(firsts | known) == 1 and not request.options.class_names:
        what = f"all images lie in one folder, {firsts.pop()!r}, and one class is none: taken as images without labels"
        remark = f"{what}; pack one folder for each class"
        return Listing([Entry(name, name, None) for name in images], remark=remark)
    entries = []
    for name, parts in paths.items():
        if len(parts) == 1:
            request.log.bad(name, "lies in no class folder")
            continue
        split = SPLIT_ALIASES[parts[0].lower()] if with_splits else None
        entries.append(Entry(name, name, (parts[1 if with_splits else 0],), split))
    if with_splits:
        _tell_classes_not_trained_on(entries, request)
    return Listing(entries, known_classes=tuple(known | {e.labels[0] for e in entries if e.labels}))


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


def _tell_split_among_classes(splits: set[str], firsts: set[str], request: ReadRequest) -> None:
    """Two names of splits are hardly classes; one may be (a train is a vehicle)."""
    names = ", ".join(sorted(splits))
    if len({SPLIT_ALIASES[s.lower()] for s in splits}) > 1:
        what = "put every image into split/class/image, or none"
        beside = ", ".join(sorted(firsts - splits)) or "images that lie in no class folder"
        request.log.error("dataset", f"folders {names} look like splits, but beside them lie {beside}; {what}")
    else:
        request.log.note("dataset", f"folder {names} was taken as a class, since not every folder beside it is a split")


def _tell_classes_not_trained_on(entries: Sequence[Entry], request: ReadRequest) -> None:
    """A class that the training folder lacks moves all later ones away from the order that a model was trained with."""
    trained = {e.labels for e in entries if e.split == "train"}
    extra = sorted({e.labels[0] for e in entries if e.labels and e.labels not in trained})
    if trained and extra and not request.options.class_names:
        shown: list[SplitName | None] = sorted({e.split for e in entries if e.labels and e.labels[0] == extra[0]}, key=str)
        what = f"{', '.join(extra[:5])} {'is' if len(extra) == 1 else 'are'} not in train, only in {shown[0]}"
        request.log.note(
            "classes", f"{what}; a model that was trained without has other outputs: state class_names, or leave them out"
        )


def _decode(source: FileSource, listing: Listing, request: ReadRequest) -> ImageTable:
    entries, p = listing.entries, request.preprocessing
    request.check_pixels(len(entries))
    images = np.empty((len(entries), p.height, p.width, p.channels), np.uint8)
    usable = np.ones(len(entries), np.bool_)
    reader = ImageReader(request.limits.image_pixels)
    for position, entry in enumerate(entries):
        try:
            images[position] = p.fit(reader.open(source.read(entry.name)))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever they come across
            usable[position] = False
            request.log.bad(entry.place, image_problem(error))
    reader.tell(request.log)
    if listing.remark and usable.any():
        request.log.note("dataset", listing.remark)
    if usable.any() and images[usable].max() == 1:
        request.log.note("images", "all pixels are 0 or 1 of 255, nearly black: if they are masks, save them as 0 and 255")
    places = [entry.place for entry in entries]
    encoded = EncodedLabels(None, (), usable)
    if entries[0].labels is not None:
        cells = [e.labels or () for e in entries]
        encoded = encode_columns(listing.label_names, cells, places, request, listing.known_classes)
    splits = [e.split for e in entries]
    groups = {name: [e.groups[i] for e in entries] for i, name in enumerate(listing.group_names)}
    table = ImageTable(images, places, encoded.labels, encoded.class_names, splits if any(splits) else None, groups)
    return table.keep(usable & encoded.usable)
