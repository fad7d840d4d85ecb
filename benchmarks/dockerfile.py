"""Reads a Dockerfile and a ``.dockerignore``, as far as ours go; whatever else stands in one is an error, not skipped."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

KNOWN = ("FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word, and what stands behind it."""

    word: str
    rest: str

    @property
    def command(self) -> list[str]:
        """The program of a CMD or HEALTHCHECK in its JSON form."""
        parsed = json.loads(self.rest[self.rest.index("[") :])
        return [str(part) for part in parsed]

    def pairs(self, values: Mapping[str, str]) -> dict[str, str]:
        """The names and values of an ENV or ARG, with ``$NAME`` replaced by ``values``."""
        given = (part.partition("=") for part in shlex.split(self.rest))
        return {name: re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], ""), value) for name, _, value in given}


def instructions(text: str) -> list[Instruction]:
    """All instructions, in order.

    Raises:
        ValueError: one that is not `KNOWN`.
    """
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [Instruction(*line.split(None, 1)) for line in joined.splitlines() if line.strip()]
    unknown = [one.word for one in found if one.word not in KNOWN]
    if unknown:
        raise ValueError(f"instructions that nobody here knows: {', '.join(unknown)}")
    return found


@dataclass(frozen=True)
class Context:
    """The files of a checkout that an image may take."""

    root: Path
    ignored: tuple[str, ...]

    @staticmethod
    def of(root: Path) -> Context:
        """With the rules of its ``.dockerignore``; the last that matches a file or a folder above it decides."""
        lines = (root / ".dockerignore").read_text().splitlines()
        return Context(root, tuple(line for line in lines if line and not line.startswith("#")))

    def files(self, source: str) -> Iterator[Path]:
        """Files of ``source``, a file or a folder, relative to the root.

        Raises:
            FileNotFoundError: there are none.
        """
        start = self.root / source
        below = [start] if start.is_file() else (Path(folder, name) for folder, _, names in os.walk(start) for name in names)
        taken = sorted(path.relative_to(self.root) for path in below if self.takes(path.relative_to(self.root)))
        if not taken:
            raise FileNotFoundError(f"COPY {source}: nothing in the context")
        yield from taken

    def takes(self, path: Path) -> bool:
        """Whether the rules let a file in."""
        names = [path, *path.parents][:-1]
        taken = True
        for rule in self.ignored:
            pattern = rule.removeprefix("!")
            deep = pattern.startswith("**/")
            if any(fnmatch.fnmatchcase(name.name if deep else str(name), pattern.removeprefix("**/")) for name in names):
                taken = rule.startswith("!")
        return taken
