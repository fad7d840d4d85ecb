"""Columns of a table that hold labels: one, several, one for each class, or an index beside its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from service.intake.errors import IntakeError
from service.intake.image_table import EncodedLabels, ReadRequest, class_number, encode_numbers, encode_texts

LABEL_NAMES = (
    *("label", "labels", "label_name", "label_id", "label_index", "label_idx", "label_text"),
    *("class", "classes", "class_name", "class_id", "classname", "category", "target", "y"),
)
"""What a column of classes is called; where a table has several of them, the first of the first that are here is read."""
_NUMBERED = re.compile(r"labels?_?\d+")
_PREFIX = re.compile(r"labels?(_|(?=\d))(?=.)")
_HOT = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


def looks_like_labels(name: str) -> bool:
    """Whether a column of this name may hold classes; `choose_columns` decides by its cells."""
    return name.startswith("label") or name in LABEL_NAMES


def choose_columns(names: Sequence[str], rows: Sequence[Sequence[str]], place: str, request: ReadRequest) -> tuple[int, ...]:
    """Which of the columns that `looks_like_labels` hold them; the others, such as ``labeler``, are told.

    A column of `LABEL_NAMES`, with its index or name beside it or with ``label2, label3``; else ``label_1, label_2``; else
    ``label_cat, label_dog`` of 0 and 1 alone.
    """
    cells = [set(column) for column in zip(*rows, strict=True)] or [set[str]() for _ in names]
    chosen = _chosen(names, cells)
    others = [name for i, name in enumerate(names) if i not in chosen]
    if others:
        read = f"labels are read from {_quoted([names[i] for i in chosen])}" if chosen else "the images are taken as label-free"
        what = f"columns that may be labels are taken as groups: {_quoted(others)}; {read}"
        request.log.note(place, f"{what}. Call the column 'label' that names the classes, or 'label_1', 'label_2' if several do")
    return chosen


def _chosen(names: Sequence[str], cells: Sequence[Collection[str]]) -> tuple[int, ...]:
    named = sorted((i for i, name in enumerate(names) if name in LABEL_NAMES), key=lambda i: LABEL_NAMES.index(names[i]))
    numbered = tuple(i for i, name in enumerate(names) if _NUMBERED.fullmatch(name))
    hot = tuple(i for i, name in enumerate(names) if _names_a_class(name) and _are_hot(cells[i]))
    if named and names[named[0]] in ("label", "labels") and numbered and not (len(numbered) > 1 and {*numbered} <= {*hot}):
        return tuple(sorted((named[0], *numbered)))
    if named:
        pairs = [i for i in named[1:] if _counting((cells[named[0]], cells[i])) is not None]
        return tuple(sorted((named[0], *pairs[:1])))
    return hot if len(hot) > 1 and {*numbered} <= {*hot} else numbered


def _counting(cells: Sequence[Collection[str]]) -> int | None:
    """Which of two columns counts what the other one names; None where neither does."""
    for count, word in ((0, 1), (1, 0)):
        if _are_numbers(cells[count]) and all(class_number(cell) is None for cell in cells[word]):
            return count
    return None


def encode_columns(
    names: Sequence[str], rows: Sequence[Sequence[str]], places: Sequence[str], request: ReadRequest, known: Sequence[str] = ()
) -> EncodedLabels:
    """Cells of the label columns ``names``, one row an image, to class indices; how several columns were read is told.

    Columns ``label_cat, label_dog`` of 0 and 1 have one class each; two columns of which one counts what the other names
    are one label; else every cell that is not empty is a label. Rows that all have one label each are one column.

    Raises:
        IntakeError: a counting and a naming column that contradict one another.
    """
    if len(names) == 1:
        return encode_texts([[cell for cell in row if cell] for row in rows], places, request, several=False, known=known)
    cells = [set(column) for column in zip(*rows, strict=True)]
    if all(map(_names_a_class, names)) and all(map(_are_hot, cells)):
        _tell(names, "a class each, which 1 says yes to", request)
        suffixes = tuple(_PREFIX.sub("", name, count=1) for name in names)
        chosen = request.options if request.options.class_names else replace(request.options, class_names=suffixes)
        values = np.array([[_HOT[cell.lower()] for cell in row] for row in rows], np.uint8)
        return encode_numbers(values, places, replace(request, options=chosen))
    count = _counting(cells) if len(names) == 2 else None
    if count is not None:
        _tell(names, "the index of a class and its name", request)
        return _named(names, [(row[count], row[1 - count]) for row in rows], places, request)
    encoded = encode_texts([[cell for cell in row if cell] for row in rows], places, request, several=True, known=known)
    return _collapsed(encoded, names, request)


def _collapsed(encoded: EncodedLabels, names: Sequence[str], request: ReadRequest) -> EncodedLabels:
    """Rows with one label each say no more than an index does."""
    hot, usable = encoded.labels, encoded.usable
    if hot is None or not usable.any() or not (hot[usable].sum(axis=1) == 1).all():
        _tell(names, "labels of an image, which may have several", request)
        return encoded
    _tell(names, "one label, since no image has two that differ", request)
    return EncodedLabels(hot.argmax(axis=1).astype(np.int64), encoded.class_names, usable)


def _tell(names: Sequence[str], what: str, request: ReadRequest) -> None:
    request.log.note("labels", f"columns {_quoted(names)} were read as {what}")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _named(names: Sequence[str], pairs: Sequence[tuple[str, str]], places: Sequence[str], request: ReadRequest) -> EncodedLabels:
    """Indices with their names."""
    named: dict[int, str] = {}
    for position, (count, word) in enumerate(pairs):
        number = class_number(count)
        if number is not None and named.setdefault(number, word) != word:
            message = f"{places[position]}: {names[0]!r} and {names[1]!r} contradict one another: {count} is {word!r} here and "
            raise IntakeError("bad_data", f"{message}{named[number]!r} elsewhere; leave one of the columns", "dataset")
    if len(set(named.values())) < len(named) or max(named) >= request.limits.class_count:
        message = f"{names[0]!r} and {names[1]!r} do not go together one to one; leave one of the columns"
        raise IntakeError("bad_data", message, "dataset")
    words = tuple(named.get(i, f"class {i}") for i in range(max(named) + 1))
    if not request.options.class_names:
        request = replace(request, options=replace(request.options, class_names=words))
    numbers = np.array([class_number(count) for count, _ in pairs], np.int64)
    return encode_numbers(numbers, places, request)


def _names_a_class(name: str) -> bool:
    return _PREFIX.match(name) is not None and name not in LABEL_NAMES


def _are_hot(cells: Collection[str]) -> bool:
    return all(cell.lower() in _HOT for cell in cells)


def _are_numbers(cells: Collection[str]) -> bool:
    return all((number := class_number(cell)) is not None and number >= 0 for cell in cells)
