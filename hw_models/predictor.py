"""Latency of a network on a target, predicted from its operator graph, with an interval and the share of every kernel."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hw_models.errors import PredictorFormatError, TargetError
from hw_models.graph import OperatorGraph
from hw_models.kernels import FEATURES, Kernel, kernels
from hw_models.roofline import generic_coefficients_ns
from hw_models.targets import Target

COVERAGE = 0.9
UNCALIBRATED_FACTOR = 3.0
"""A generic roofline is taken to be right within this factor; nothing was measured."""


@dataclass(frozen=True)
class KernelCost:
    """One kernel's share of a prediction; ``kind`` is the kernel's signature, such as ``conv1x1.fp32.blocked``."""

    name: str
    kind: str
    ms: float


@dataclass(frozen=True)
class Prediction:
    """A predicted latency.

    Attributes:
        low_ms, high_ms: a 90% interval from the errors on networks that the fit had not seen.
        kernels: in execution order; together with the cost of a run they sum to ``value_ms``.
        unknown: signatures that were never measured on the target; priced by the generic roofline, they widen the interval.
        calibrated: False where nothing at all was measured on the target.
    """

    value_ms: float
    low_ms: float
    high_ms: float
    kernels: tuple[KernelCost, ...]
    unknown: tuple[str, ...]
    calibrated: bool


@dataclass(frozen=True)
class CalibrationSummary:
    """How a predictor came about: what its interval rests on, and how well the truth itself repeated."""

    networks: int = 0
    mean_error_percent: float = math.nan
    repeatability_percent: float = math.nan
    duration_s: float = 0.0
    seed: int = 0
    runtime: str = ""
    machine: str = ""


@dataclass(frozen=True)
class Predictor:
    """A target's latency model. Without coefficients it is the generic roofline and says *uncalibrated*.

    Attributes:
        coefficients_ns: nanoseconds per unit of `FEATURES`, by kernel signature.
        log_error: 90% quantile of ``|log(measured / predicted)|`` on held-out networks, by precision.
    """

    target: Target
    coefficients_ns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    run_overhead_ns: float = 5000.0
    log_error: Mapping[str, float] = field(default_factory=dict)
    summary: CalibrationSummary = field(default_factory=CalibrationSummary)

    @property
    def calibrated(self) -> bool:
        """Whether anything was measured on the target."""
        return bool(self.coefficients_ns)

    def predict(self, graph: OperatorGraph) -> Prediction:
        """Predict one run at the graph's batch size. Pure arithmetic, a few ms at most."""
        run = kernels(graph, self.target)
        costs = tuple(KernelCost(kernel.name, kernel.signature, self._kernel_ms(kernel)) for kernel in run)
        unknown_ms = sum(cost.ms for cost in costs if cost.kind not in self.coefficients_ns)
        known_ms = self.run_overhead_ns / 1e6 + sum(cost.ms for cost in costs) - unknown_ms
        unknown = tuple(dict.fromkeys(cost.kind for cost in costs if cost.kind not in self.coefficients_ns))
        factor = math.exp(self._log_error(run))
        return Prediction(
            value_ms=known_ms + unknown_ms,
            low_ms=known_ms / factor + unknown_ms / UNCALIBRATED_FACTOR,
            high_ms=known_ms * factor + unknown_ms * UNCALIBRATED_FACTOR,
            kernels=costs,
            unknown=unknown,
            calibrated=self.calibrated,
        )

    def _kernel_ms(self, kernel: Kernel) -> float:
        known = self.coefficients_ns.get(kernel.signature)
        coefficients = known or generic_coefficients_ns(kernel.precision, self.target.threads)
        return sum(c * f for c, f in zip(coefficients, kernel.features, strict=True)) / 1e6

    def _log_error(self, run: tuple[Kernel, ...]) -> float:
        if not self.log_error:
            return math.log(UNCALIBRATED_FACTOR)
        precision = "int8" if any(kernel.precision == "int8" for kernel in run) else "fp32"
        return self.log_error.get(precision, max(self.log_error.values()))

    def to_json(self) -> str:
        """Canonical text with type and version."""
        summary = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in self.summary.__dict__.items()}
        return json.dumps(
            {
                "type": "latency_predictor",
                "version": 1,
                "features": FEATURES,
                "target": json.loads(self.target.to_json()),
                "coefficients_ns": {k: list(v) for k, v in self.coefficients_ns.items()},
                "run_overhead_ns": self.run_overhead_ns,
                "log_error": dict(self.log_error),
                "summary": summary,
            },
            sort_keys=True,
        )

    @staticmethod
    def from_json(text: str) -> Predictor:
        """Read what `to_json` wrote.

        Raises:
            PredictorFormatError: not a predictor of a known version, or one with impossible numbers.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data["type"] != "latency_predictor" or data["version"] != 1 or tuple(data["features"]) != FEATURES:
                raise PredictorFormatError(
                    "not a latency predictor of a known version and feature list: calibrate the target again"
                )
            summary: dict[str, Any] = {k: math.nan if v is None else v for k, v in data["summary"].items()}
            return Predictor(
                Target.from_json(json.dumps(data["target"])),
                {str(k): _coefficients(k, v) for k, v in data["coefficients_ns"].items()},
                _non_negative("run_overhead_ns", data["run_overhead_ns"]),
                {str(k): _non_negative("log_error", v) for k, v in data["log_error"].items()},
                CalibrationSummary(**summary),
            )
        except (KeyError, TypeError, ValueError, AttributeError, TargetError) as error:
            raise PredictorFormatError(f"not a latency predictor: {error!r}") from error


def _coefficients(signature: str, values: list[Any]) -> tuple[float, ...]:
    if len(values) != len(FEATURES):
        raise PredictorFormatError(f"{signature}: {len(values)} coefficients, {len(FEATURES)} are needed")
    return tuple(_non_negative(signature, value) for value in values)


def _non_negative(name: str, value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise PredictorFormatError(f"{name}: must be a finite number of at least 0, got {value!r}")
    return number
