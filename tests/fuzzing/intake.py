"""Takes hostile files in as the server does, and says how each was answered."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import grpc

from search.errors import InvalidSpecError
from search.preprocessing import Preprocessing
from service.errors import describe_error
from service.intake.datasets import import_dataset
from service.intake.errors import IntakeError, SandboxError
from service.intake.models import ModelOptions, import_model
from service.intake.sandbox import SandboxLimits
from tests.fuzzing.corpus import ARCHITECTURE, CLASSES
from tests.fuzzing.files import MODEL_FORMATS, HostileFile
from tests.fuzzing.payloads import traces

PREPROCESSING = Preprocessing(4, 4, 1, resize="shortest_side", crop="center")
LIMITS = SandboxLimits(wall_time_s=60.0, cpu_time_s=90)
_OPTIONS = ModelOptions(ARCHITECTURE, height=32, width=32, num_classes=CLASSES)
_UPLOAD, _SCRATCH = "upload", "scratch"


@dataclass(frozen=True)
class Verdict:
    """How a file was answered.

    Attributes:
        outcome: ``accepted``, an intake code such as ``unsafe``, ``sandbox memory`` and the like, or ``untyped``.
        message: what the user is told.
        detail: for developers.
        strays: files that appeared where none may, and canaries that sang.
    """

    file: HostileFile
    outcome: str
    message: str
    detail: str
    wall_s: float
    strays: tuple[str, ...]

    @property
    def is_fine(self) -> bool:
        """Accepted or refused with words, in time, without a crash and without a trace."""
        typed = self.outcome not in ("untyped", "sandbox crash", "sandbox timeout") and bool(
            self.message or self.outcome == "accepted"
        )
        return typed and not self.strays and self.wall_s <= LIMITS.wall_time_s


def take_in(file: HostileFile, outside: Path) -> Verdict:
    """One file, through the real intake in a sandbox child."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    scratch, upload = folder / _SCRATCH, folder / _UPLOAD
    scratch.mkdir()
    upload.write_bytes(file.content)
    begin = time.monotonic()
    try:
        outcome, message, detail = _answer(file, upload, scratch)
        wall_s = time.monotonic() - begin
        strays = [str(path) for path in folder.iterdir() if path.name not in (_UPLOAD, _SCRATCH)]
        strays += [f"canary {path}" for path in traces([folder], outside)]
        return Verdict(file, outcome, message, detail, wall_s, tuple(strays))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def take_all_in(files: Iterable[HostileFile], count: int, outside: Path, threads: int = 2) -> Iterator[Verdict]:
    """Several at once, as a server does; in order."""
    chosen = islice(files, count)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(chosen, 8 * threads)):
            yield from pool.map(lambda file: take_in(file, outside), batch)


def _answer(file: HostileFile, upload: Path, scratch: Path) -> tuple[str, str, str]:
    try:
        _import(file, upload, scratch)
    except (IntakeError, SandboxError, InvalidSpecError) as error:
        facts = describe_error(error)
        if facts.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
            return "untyped", facts.message, repr(error)
        kind = f"sandbox {error.kind}" if isinstance(error, SandboxError) else getattr(error, "code", "bad_option")
        return kind, facts.message, getattr(error, "detail", "")
    except Exception as error:
        return "untyped", "", repr(error)
    return "accepted", "", ""


def _import(file: HostileFile, upload: Path, scratch: Path) -> Any:
    if file.format in MODEL_FORMATS:
        options = _OPTIONS if file.format == "architecture" else None
        return import_model(upload, file.format, options, scratch=scratch, sandbox=LIMITS)  # type: ignore[arg-type]
    return import_dataset(upload, file.format, PREPROCESSING, scratch=scratch, sandbox=LIMITS)  # type: ignore[arg-type]
