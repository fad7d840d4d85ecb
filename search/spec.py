"""What a search is asked to do: frozen, typed, valid once built. `SearchSpec.validated` reports every bad field at once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import search.runtimes  # noqa: F401  sizes of the files that installed runtimes run can be limited
from search.errors import FieldViolation, InvalidSpecError
from search.evaluation import audits  # noqa: F401  what they measure can be limited
from search.evaluation.metrics import METRICS
from search.limit_kinds import KINDS, LimitKind

SizeName = Literal["onnx_size_bytes", "download_size_bytes", "weight_size_bytes"]
Preference = Literal["fastest", "smallest", "most_accurate", "balanced"]

MAX_TRIALS = 10_000
MAX_WALL_TIME_S = 7 * 24 * 3600.0
MAX_BATCH_SIZE = 1024
MAX_SCOPES = 256


@dataclass(frozen=True)
class Budget:
    """Hard limits; ``None`` means no limit.

    Attributes:
        latency_ms: of one run at ``batch_size`` on the search's target.
        size_name, size_bytes: one named size and its limit.
        macs: multiply-accumulates of one image.
        max_accuracy_drop_points: percentage points below the original, on the selection split.
        confidence: 0 decides on the point estimate, 0.95 on the one-sided bound; below 0.5 the estimate decides, too.
        limits: others by the name of what is measured (`search.limits.KINDS`).
    """

    latency_ms: float | None = None
    batch_size: int = 1
    size_name: SizeName = "onnx_size_bytes"
    size_bytes: int | None = None
    macs: int | None = None
    max_accuracy_drop_points: float | None = None
    confidence: float = 0.0
    limits: Mapping[str, float] = field(default_factory=dict)

    def violations(self) -> list[FieldViolation]:
        """Every limit that cannot be a limit."""
        found: list[FieldViolation] = []
        positive = {"latency_ms": self.latency_ms, "size_bytes": self.size_bytes, "macs": self.macs}
        for name, value in positive.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                found.append(FieldViolation(f"budget.{name}", f"must be a finite number above 0, got {value}"))
        kinds = {"latency_ms": "latency_ms", "size_bytes": self.size_name, "macs": "macs"}
        for name, kind in kinds.items():
            found += _too_small(f"budget.{name}", KINDS.get(kind), positive[name])
        found += self._other_violations({kinds[name] for name, value in positive.items() if value is not None})
        drop = self.max_accuracy_drop_points
        if drop is not None and not (math.isfinite(drop) and 0 <= drop <= 100):
            found.append(FieldViolation("budget.max_accuracy_drop_points", f"must be between 0 and 100 points, got {drop}"))
        if not 1 <= self.batch_size <= MAX_BATCH_SIZE:
            found.append(FieldViolation("budget.batch_size", f"must be between 1 and {MAX_BATCH_SIZE}, got {self.batch_size}"))
        if not (math.isfinite(self.confidence) and 0 <= self.confidence < 1):
            found.append(FieldViolation("budget.confidence", f"must be in [0, 1), got {self.confidence}"))
        if self.size_name not in get_args(SizeName):
            found.append(FieldViolation("budget.size_name", f"must be one of {list(get_args(SizeName))}, got {self.size_name!r}"))
        limits = (self.latency_ms, self.size_bytes, self.macs, drop)
        if not self.limits and all(limit is None for limit in limits):
            found.append(
                FieldViolation("budget", "at least one limit is needed: latency_ms, size, macs or max_accuracy_drop_points")
            )
        return found

    def _other_violations(self, named: set[str]) -> list[FieldViolation]:
        found = []
        for name, value in self.limits.items():
            field_name = f"budget.limits[{name}]"
            if name not in KINDS:
                found.append(FieldViolation(field_name, f"is nothing that can be limited; known are {sorted(KINDS)}"))
            elif name in named:
                found.append(FieldViolation(field_name, "is limited twice; name it once"))
            elif not (math.isfinite(value) and value > 0):
                found.append(FieldViolation(field_name, f"must be a finite number above 0, got {value}"))
            else:
                found += _too_small(field_name, KINDS[name], value)
        return found


def _too_small(field_name: str, kind: LimitKind | None, value: float | None) -> list[FieldViolation]:
    """What is below what any network takes is a wrong unit, and told at once."""
    if kind is None or value is None or not 0 < value < kind.least:
        return []
    unit = kind.name.rpartition("_")[2]
    words = f"{value} is below what any network takes, {kind.least} ({unit}): is the unit right?"
    return [FieldViolation(field_name, words)]


@dataclass(frozen=True)
class Effort:
    """How long to look. ``max_trials`` makes a search repeatable; a wall time alone does not."""

    max_trials: int = 24
    max_wall_time_s: float = 1800.0
    seed: int = 0
    max_epochs: float | None = None
    """Training of one candidate over all rungs, in passes over the train split; None: as many as the time allows."""

    def violations(self) -> list[FieldViolation]:
        """Every effort that cannot be spent."""
        found: list[FieldViolation] = []
        if not 1 <= self.max_trials <= MAX_TRIALS:
            found.append(FieldViolation("effort.max_trials", f"must be between 1 and {MAX_TRIALS}, got {self.max_trials}"))
        if not (math.isfinite(self.max_wall_time_s) and 0 < self.max_wall_time_s <= MAX_WALL_TIME_S):
            found.append(
                FieldViolation(
                    "effort.max_wall_time_s", f"must be above 0 and at most {MAX_WALL_TIME_S:.0f}, got {self.max_wall_time_s}"
                )
            )
        if not 0 <= self.seed < 2**31:
            found.append(FieldViolation("effort.seed", f"must be between 0 and {2**31 - 1}, got {self.seed}"))
        if self.max_epochs is not None and not (math.isfinite(self.max_epochs) and 0 <= self.max_epochs <= 1000):
            found.append(FieldViolation("effort.max_epochs", f"must be between 0 and 1000, got {self.max_epochs}"))
        return found


@dataclass(frozen=True)
class SearchSpec:
    """One search. Model and dataset are blob digests; where they came from is the service's business.

    Attributes:
        model_sha256, dataset_sha256: canonical blobs in the blob store.
        target: name of a registered target, such as ``cpu-ort-1t``.
        metric: name of a registered metric (`search.evaluation.metrics`).
        techniques: registered technique names that may be used; empty allows all.
        scopes: shell patterns of module names that may be compressed.
        expected_accuracy: fraction that the original is known to reach; the baseline is checked against it.
    """

    model_sha256: str
    dataset_sha256: str
    target: str
    budget: Budget
    effort: Effort = field(default_factory=Effort)
    metric: str = "top1"
    preference: Preference = "fastest"
    expected_accuracy: float | None = None
    scopes: tuple[str, ...] = ("*",)
    techniques: tuple[str, ...] = ()

    def violations(self) -> list[FieldViolation]:
        """Every bad field of the request, budget and effort included."""
        found = [*self.budget.violations(), *self.effort.violations()]
        if self.metric not in METRICS:
            found.append(FieldViolation("metric", f"must be one of {list(METRICS)}, got {self.metric!r}"))
        if self.preference not in get_args(Preference):
            found.append(FieldViolation("preference", f"must be one of {list(get_args(Preference))}, got {self.preference!r}"))
        expected = self.expected_accuracy
        if expected is not None and not (math.isfinite(expected) and 0 < expected <= 1):
            found.append(FieldViolation("expected_accuracy", f"must be a fraction in (0, 1], got {expected}"))
        if self.preference in ("fastest", "smallest") and self.budget.max_accuracy_drop_points is None:
            found.append(
                FieldViolation(
                    "budget.max_accuracy_drop_points",
                    f"preference {self.preference!r} needs a limit on the accuracy drop, or the best would be the worst network",
                )
            )
        if not self.scopes or len(self.scopes) > MAX_SCOPES or any(not s or len(s) > 256 for s in self.scopes):
            found.append(FieldViolation("scopes", f"must be 1 to {MAX_SCOPES} patterns of 1 to 256 characters"))
        return found

    def validated(self) -> SearchSpec:
        """Itself, if nothing is wrong.

        Raises:
            InvalidSpecError: with every bad field.
        """
        found = self.violations()
        if found:
            raise InvalidSpecError(found)
        return self

    def to_json(self) -> str:
        """Canonical text with type and version."""
        return json.dumps({"type": "search_spec", "version": 1, **asdict(self)}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> SearchSpec:
        """Read what `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        if data.pop("type") != "search_spec" or data.pop("version") != 1:
            raise ValueError("not a search spec of a known version")
        return SearchSpec(
            **{
                **data,
                "budget": Budget(**data["budget"]),
                "effort": Effort(**data["effort"]),
                "scopes": tuple(data["scopes"]),
                "techniques": tuple(data["techniques"]),
            }
        )
