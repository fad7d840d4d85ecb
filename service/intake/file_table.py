"""A CSV table beside image files: which column names the file, which ones the class, split and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from search.dataset_file import SplitName
from service.intake.archives import FileSource
from service.intake.csv_rows import column_name, is_row_number, rows_of, split_alias
from service.intake.errors import IntakeError, refusing
from service.intake.file_names import FileNames
from service.intake.image_table import ReadRequest, parse_split
from service.intake.label_columns import choose_columns, looks_like_labels

_FILE_COLUMNS = ("filename", "file", "path", "image", "file_name", "filepath", "file_path", "image_name", "image_path", "img")
_Rows = Sequence[tuple[int, list[str]]]


@dataclass(frozen=True)
class Entry:
    """One image before it is decoded; ``labels`` are the cells of its columns, None for label-free data."""

    name: str
    place: str
    labels: tuple[str, ...] | None
    split: SplitName | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """All images; ``label_names`` are the columns of their labels; ``known_classes`` exist whether or not an image has them.

    ``remark`` is what to note if the images can be read.
    """

    entries: list[Entry]
    label_names: tuple[str, ...] = ("label",)
    group_names: tuple[str, ...] = ()
    known_classes: tuple[str, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class _Columns:
    """Places of the columns in a row of ``width`` cells."""

    width: int
    file: int
    labels: tuple[int, ...] = ()
    split: int | None = None
    groups: tuple[int, ...] = ()
    group_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ("label",)
    has_header: bool = True


def list_table(source: FileSource, table: str, images: Sequence[str], request: ReadRequest) -> Listing:
    """Read a table of file names; without a header where the columns can mean one thing only.

    Raises:
        IntakeError: no such table; single bad rows go to the request's log.
    """
    rows: list[tuple[int, list[str]]] = []
    with refusing("unreadable", f"{table} is not a readable CSV table", "dataset"):
        for row in rows_of(source.read(table)):
            rows.append(row)
            if len(rows) > request.limits.image_count + 1:
                raise IntakeError("too_large", f"{table} has more than {request.limits.image_count:,} rows", "dataset")
    names = FileNames(images, str(PurePosixPath(table).parent))
    columns = _columns(table, rows, names, request)
    names.inexact.clear()
    entries, seen = _entries(table, rows[1:] if columns.has_header else rows, columns, names, request)
    if names.inexact:
        cell, name = names.inexact[0]
        what = f"{len(names.inexact)} names are not written as the files are, such as {cell!r}, which was taken for {name!r}"
        request.log.warn(table, what)
    unlisted = [name for name in images if name not in seen]
    if unlisted and entries:
        request.log.note(table, f"{len(unlisted)} images are not in the table and were left out, such as {unlisted[0]}")
    order = {name: i for i, name in enumerate(source.files)}
    entries.sort(key=lambda e: order[e.name])
    return Listing(entries, columns.label_names, columns.group_names)


def _entries(
    table: str, rows: _Rows, columns: _Columns, names: FileNames, request: ReadRequest
) -> tuple[list[Entry], frozenset[str]]:
    seen, entries = set[str](), list[Entry]()
    for number, row in rows:
        place = f"{table} row {number}"
        if len(row) != columns.width:
            request.log.bad(place, f"has {len(row)} cells instead of {columns.width}")
            continue
        name = names.find(row[columns.file])
        if name is None:
            request.log.bad(place, f"there is no file {row[columns.file]!r}")
        elif name in seen:
            request.log.bad(place, f"file {row[columns.file]!r} is listed twice")
        else:
            labels = tuple(row[i] for i in columns.labels) if columns.labels else None
            split = parse_split(row[columns.split], place, request.log) if columns.split is not None else None
            entries.append(Entry(name, f"{place} ({name})", labels, split, tuple(row[i] for i in columns.groups)))
            seen.add(name)
    return entries, frozenset(seen)


def _columns(table: str, rows: _Rows, names: FileNames, request: ReadRequest) -> _Columns:
    first = rows[0][1] if rows else []
    header = [column_name(cell) for cell in first]
    files = [header.index(name) for name in _FILE_COLUMNS if name in header]
    if not files and [i for i, cell in enumerate(first) if names.find(cell)]:
        return _columns_without_header(table, rows, names)
    if not files and len(rows) > 1:  # any other name, as long as its first cell is a file
        files = [i for i, cell in enumerate(rows[1][1][: len(header)]) if names.find(cell)]
    named = [name for name in header if not is_row_number(name)]
    if not files or len(set(named)) < len(named):
        raise IntakeError("bad_data", f"{table}: the header needs a column 'filename' and no column twice, got {header}", "dataset")
    file = files[0]
    split = header.index("split") if "split" in header and header.index("split") != file else None
    maybe = [i for i, name in enumerate(header) if looks_like_labels(name) and i not in (file, split)]
    cells = [[row[i] for i in maybe] for _, row in rows[1:] if len(row) == len(header)]
    labels = tuple(maybe[i] for i in choose_columns([header[i] for i in maybe], cells, table, request))
    groups = tuple(i for i in range(len(header)) if i not in (file, split, *labels) and not is_row_number(header[i]))
    request.check_groups(len(groups))
    group_names = tuple(header[i] for i in groups)
    if not maybe and groups:
        what = f"no column is called label: the images are taken as label-free and {', '.join(group_names)} as groups"
        request.log.note(table, f"{what}; call the column label if it names the classes")
    return _Columns(len(header), file, labels, split, groups, group_names, tuple(header[i] for i in labels))


def _columns_without_header(table: str, rows: _Rows, names: FileNames) -> _Columns:
    """A table that starts with data: one column names files, at most one the split, and what is left is the label."""
    first = rows[0][1]
    files = [i for i, cell in enumerate(first) if names.find(cell)]
    others = [i for i in range(len(first)) if i not in files]
    whole = [row for _, row in rows if len(row) == len(first)]
    splits = [i for i in others if all(split_alias(row[i]) for row in whole)] if len(others) > 1 else []
    labels = [i for i in others if i not in splits]
    if len(files) != 1 or len(splits) > 1 or len(labels) > 1:
        names_of = {**{i: f"group{i}" for i in others}, **dict.fromkeys(labels[:1], "label"), **dict.fromkeys(splits[:1], "split")}
        example = ",".join("filename" if i in files[:1] else names_of.get(i, f"group{i}") for i in range(len(first)))
        message = (
            f"{table} has no header, and its {len(first)} columns can mean several things: put a first line such as {example!r}"
        )
        raise IntakeError("bad_data", message, "dataset")
    columns = _Columns(len(first), files[0], tuple(labels), splits[0] if splits else None)
    return replace(columns, has_header=False)
