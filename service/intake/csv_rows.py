"""CSV as spreadsheets and libraries write it: any of four separators, UTF-8 or UTF-16, with a mark or without."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from search.dataset_file import SplitName
from service.intake.image_table import SPLIT_ALIASES

_SEPARATORS = ",;\t|"
_LOOKED_AT = 1 << 16
_UNNAMED = re.compile(r"|unnamed:_\d+(_level_\d+)?")


def rows_of(data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Number (from 1) and cells of each row that is not empty; cells without the spaces around them.

    Raises:
        ValueError, csv.Error: no text, or no table.
    """
    return _rows(io.TextIOWrapper(io.BytesIO(data), encoding_of(data[:_LOOKED_AT])))


def rows_of_file(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The same for a file, read as it is asked for."""
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT)
    with path.open(encoding=encoding_of(start)) as text:
        yield from _rows(text)


def encoding_of(start: bytes) -> str:
    """By the mark at the start; UTF-8 without one."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def column_name(cell: str) -> str:
    """A header's cell as it is compared: ``Image Name`` is ``image_name``."""
    return re.sub(r"[\s-]+", "_", cell.strip().lower())


def is_row_number(name: str) -> bool:
    """Whether a column is what pandas writes as a row's number; it says nothing of the image."""
    return _UNNAMED.fullmatch(name) is not None


def split_alias(cell: str) -> SplitName | None:
    """The split that a word names."""
    return SPLIT_ALIASES.get(cell.strip().lower())


def _rows(text: TextIO) -> Iterator[tuple[int, list[str]]]:
    try:
        first = text.readline(_LOOKED_AT)
        text.seek(0)
        for number, row in enumerate(csv.reader(text, strict=True, delimiter=_separator(first), skipinitialspace=True), 1):
            if any(cell.strip() for cell in row):
                yield number, [cell.strip() for cell in row]
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8 ({error}); save the table as CSV UTF-8") from error


def _separator(line: str) -> str:
    """The one that the first row has most of, outside quotes; a comma where it has none."""
    bare = re.sub(r'"[^"]*"', "", line)
    return max(_SEPARATORS, key=bare.count)
