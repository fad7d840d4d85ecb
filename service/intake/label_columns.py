"""Columns of a table that hold labels: one, several, one for each class, or an index beside its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from service.intake.errors import IntakeError
from service.intake.image_table import EncodedLabels, ReadRequest, class_number, encode_numbers, encode_texts

_PREFIX = re.compile(r"labels?_?(?=.)")
_HOT = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


def encode_columns(
    names: Sequence[str], rows: Sequence[Sequence[str]], places: Sequence[str], request: ReadRequest, known: Sequence[str] = ()
) -> EncodedLabels:
    """Cells of the label columns ``names``, one row an image, to class indices.

    Columns ``label_cat, label_dog`` of 0 and 1 have one class each; two columns of which one counts what the other names
    are one label; else every cell that is not empty is a label.

    Raises:
        IntakeError: a counting and a naming column that contradict one another.
    """
    cells = [set(column) for column in zip(*rows, strict=True)]
    suffixes = [_PREFIX.sub("", name, count=1) for name in names]
    if len(names) > 1 and suffixes != list(names) and all(_PREFIX.match(n) for n in names) and all(_are_hot(c) for c in cells):
        chosen = request.options if request.options.class_names else replace(request.options, class_names=tuple(suffixes))
        values = np.array([[_HOT[cell.lower()] for cell in row] for row in rows], np.uint8)
        return encode_numbers(values, places, replace(request, options=chosen))
    if len(names) == 2:
        count, word = (0, 1) if _are_numbers(cells[0]) else (1, 0)
        if _are_numbers(cells[count]) and all(class_number(cell) is None for cell in cells[word]):
            return _named(names, [(row[count], row[word]) for row in rows], places, request)
    return encode_texts([[cell for cell in row if cell] for row in rows], places, request, len(names) > 1, known)


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


def _are_hot(cells: set[str]) -> bool:
    return all(cell.lower() in _HOT for cell in cells)


def _are_numbers(cells: set[str]) -> bool:
    return all((number := class_number(cell)) is not None and number >= 0 for cell in cells)
