"""Which file of an archive a cell of a table means: as it stands, or as another machine or tool would have written it."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

_MAX_LENGTH, _MAX_DEPTH, _MAX_ALIKE = 4096, 8, 100
_DRIVE = re.compile(r"^[A-Za-z]:")


class FileNames:
    """Finds the files of an archive by what a table says.

    A name counts as it stands, from the table's folder or the archive's top. Else it may be longer than the file's (an
    absolute path) or shorter (the files lie in a folder), in other case, with backslashes, or without its suffix, as long
    as exactly one file ends alike. What is not in ``names`` is never found.

    >>> FileNames(["set/train/a.png", "set/test/a.png"], "set").find("C:\\\\data\\\\Train\\\\A")
    'set/train/a.png'
    """

    def __init__(self, names: Sequence[str], folder: str) -> None:
        self._names = frozenset(names)
        self._folder = folder
        self._ends: dict[str, list[str]] | None = None
        self._wholes: dict[str, list[str]] = defaultdict(list)
        self.inexact: list[tuple[str, str]] = []

    def find(self, cell: str) -> str | None:
        """The one file that is meant, or None; what was not found as it stands goes to ``inexact``."""
        text = _DRIVE.sub("", unicodedata.normalize("NFC", cell.strip()).replace("\\", "/"))
        if not text or len(text) > _MAX_LENGTH:
            return None
        for whole in (posixpath.join(self._folder, text), text):
            name = posixpath.normpath(whole)
            if name in self._names:
                return name
        found = self._similar([part for part in text.split("/") if part not in ("", ".", "..")])
        if found:
            self.inexact.append((cell, found))
        return found

    def _similar(self, wanted: list[str]) -> str | None:
        if self._ends is None:
            self._ends = self._indexed()
        folded = [part.casefold() for part in wanted]
        found = self._ends.get("/".join(folded), [])
        for start in range(1, len(folded)):
            found = found or self._wholes.get("/".join(folded[start:]), [])
        exact = [name for name in found[:_MAX_ALIKE] if name.endswith("/".join(wanted))]
        return found[0] if len(found) == 1 else exact[0] if len(exact) == 1 else None

    def _indexed(self) -> dict[str, list[str]]:
        """Files by each end of their path, in lower case, with and without suffix."""
        ends: dict[str, list[str]] = defaultdict(list)
        top = _common_folders(sorted(self._names))
        for name in sorted(self._names):
            parts = PurePosixPath(name.casefold()).parts
            for last in {parts[-1], PurePosixPath(parts[-1]).stem}:
                path = [*parts[:-1], last]
                for start in range(max(0, len(path) - _MAX_DEPTH), len(path)):
                    ends["/".join(path[start:])].append(name)
                # A bare name behind the common folder is no path: the same name lies in every folder.
                for whole in {"/".join(path), "/".join(path[top:] if len(path) > top + 1 else path)}:
                    self._wholes[whole].append(name)
        return ends


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """How many last parts are the same."""
    return next((i for i, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if x != y), min(len(a), len(b)))


def _common_folders(names: Sequence[str]) -> int:
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    first, last = min(folders, default=()), max(folders, default=())
    return _shared(first[::-1], last[::-1])
