"""The attached targets' predictors, one JSON file each; made by workers, read by the server."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hw_models.errors import PredictorFormatError
from hw_models.predictor import Predictor
from service.errors import PreconditionError

_LOG = logging.getLogger("paretopress.predictors")
IDLE_TARGETS = ("cpu-ort-1t", "cpu-ort-all")
"""Targets that a worker calibrates when it has nothing else to do; others on request, or when a search asks for them."""
_TYPE, _VERSION = "predictor_summary", 1


@dataclass(frozen=True)
class PredictorSummary:
    """How a predictor came about. Percentages are None where they are not known; ``calibrate_time`` is since the epoch."""

    networks: int
    mean_error_percent: float | None
    repeatability_percent: float | None
    duration_s: float
    runtime: str
    calibrate_time: float

    def to_json(self) -> str:
        """Canonical text with type and version."""
        return json.dumps({"type": _TYPE, "version": _VERSION, **asdict(self)}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> PredictorSummary:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not a summary of a known version.
        """
        data: dict[str, Any] = json.loads(text)
        if data.pop("type", None) != _TYPE or data.pop("version", None) != _VERSION:
            raise ValueError("not a predictor's summary of a known version")
        return PredictorSummary(**data)


@dataclass(frozen=True)
class StoredPredictor:
    """A predictor with its text and the time when it was written, in seconds since the epoch."""

    predictor: Predictor
    text: str
    written: float

    @property
    def summary(self) -> PredictorSummary | None:
        """How it came about; None where nothing was measured."""
        return _summary(self.predictor, self.written) if self.predictor.calibrated else None


class PredictorFiles:
    """A folder of predictors. A file is read again only when it has changed; threads may share one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[tuple[int, int], StoredPredictor | None]] = {}

    def path(self, target: str) -> Path:
        """Where a target's predictor lies, once it is there."""
        return self._folder / f"{target}.json"

    def exists(self, target: str) -> bool:
        """Whether there is one that this version can read."""
        return self.find(target) is not None

    def find(self, target: str) -> StoredPredictor | None:
        """A target's predictor; None where there is none, or one of another version, which must be made again."""
        try:
            status = self.path(target).stat()
            version = (status.st_mtime_ns, status.st_ino)
            known = self._read.get(target)
            if known is None or known[0] != version:
                known = (version, self._parse(target, status.st_mtime))
                self._read[target] = known
            return known[1]
        except FileNotFoundError:
            return None

    def get(self, target: str) -> StoredPredictor:
        """A target's predictor.

        Raises:
            PreconditionError: the target has not been calibrated yet.
        """
        stored = self.find(target)
        if stored is None:
            words = f"target {target!r} has not been calibrated yet; `paretopress targets calibrate {target}` does it"
            raise PreconditionError(f"{words} (an idle worker does {' and '.join(IDLE_TARGETS)} by itself)")
        return stored

    def errors_percent(self) -> dict[str, float]:
        """Mean error of each calibrated target's predictor, where it is known."""
        found = {path.stem: self.find(path.stem) for path in sorted(self._folder.glob("*.json"))}
        summaries = {target: stored.summary for target, stored in found.items() if stored}
        return {target: known.mean_error_percent for target, known in summaries.items() if known and known.mean_error_percent}

    def write(self, target: str, text: str) -> PredictorSummary:
        """Store a calibrated predictor; readers see the old one or the new one.

        Raises:
            PredictorFormatError: the text is none; the old one stays.
        """
        predictor = Predictor.from_json(text)
        if not predictor.calibrated:
            raise PredictorFormatError(f"nothing was measured on {target}")
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{target}.{secrets.token_hex(4)}"
        temporary.write_text(text)
        os.replace(temporary, self.path(target))
        return _summary(predictor, self.path(target).stat().st_mtime)

    def _parse(self, target: str, written: float) -> StoredPredictor | None:
        text = self.path(target).read_text()
        try:
            return StoredPredictor(Predictor.from_json(text), text, written)
        except PredictorFormatError as error:
            _LOG.warning("%s: %s", self.path(target), error)
            return None


def _summary(predictor: Predictor, written: float) -> PredictorSummary:
    known = predictor.summary
    return PredictorSummary(
        networks=known.networks,
        mean_error_percent=_finite(known.mean_error_percent),
        repeatability_percent=_finite(known.repeatability_percent),
        duration_s=known.duration_s,
        runtime=known.runtime,
        calibrate_time=written,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
