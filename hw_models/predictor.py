"""Latency of a network on a target, predicted from its operator graph, with an interval and the share of every kernel."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hw_models.end_to_end import GROUPS, EndToEnd
from hw_models.errors import PredictorFormatError, TargetError
from hw_models.explain import slow_reasons
from hw_models.graph import OperatorGraph
from hw_models.kernel_times import KernelTimes
from hw_models.kernels import FEATURES, Kernel
from hw_models.residual import Residual
from hw_models.runtimes import kernels_on
from hw_models.targets import Peaks, Target
from hw_models.transfer import CORRECTION_NAMES, TransferredTimes

COVERAGE = 0.9
VERSION = 3
UNCALIBRATED_FACTOR = 3.0
"""A generic roofline is taken to be right within this factor; nothing was measured."""
_COMPUTE = frozenset({"conv", "conv1d", "conv_transpose", "linear", "matmul"})


@dataclass(frozen=True)
class KernelCost:
    """One kernel's part of a prediction, in milliseconds."""

    kernel: Kernel
    target: Target
    ms: float

    @property
    def name(self) -> str:
        """Of the operator that the kernel starts with."""
        return self.kernel.name

    @property
    def kind(self) -> str:
        """The kernel's signature, such as ``conv1x1.fp32.blocked``."""
        return self.kernel.signature

    @property
    def reasons(self) -> tuple[str, ...]:
        """What makes it slow, in words; see `hw_models.explain`."""
        return slow_reasons(self.kernel, self.target)


@dataclass(frozen=True)
class Prediction:
    """A predicted latency.

    Attributes:
        low_ms, high_ms: a 90% interval from the errors on networks that the fit had not seen.
        kernels: in execution order, as the profiler would see them; their sum is near ``value_ms``.
        unknown: kinds of kernels that were never measured on the target (priced by the generic roofline), and those of a format
            that its runtime does not run (``conv3x3 W4A8``: priced as the next wider one that it does); they widen the interval.
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
    """A target's latency model. Without measured kernels it is the generic roofline and says *uncalibrated*.

    Attributes:
        log_error: 90% quantile of ``|log(measured / predicted)|`` on held-out networks, by precision.
    """

    target: Target
    times: KernelTimes | TransferredTimes = field(default_factory=lambda: KernelTimes(1))
    end_to_end: EndToEnd = field(default_factory=EndToEnd)
    log_error: Mapping[str, float] = field(default_factory=dict)
    summary: CalibrationSummary = field(default_factory=CalibrationSummary)

    @staticmethod
    def uncalibrated(target: Target) -> Predictor:
        """The data sheet's roofline where the target has one, else the generic one at its number of threads."""
        return Predictor(target, KernelTimes(target.threads, peaks=target.peaks))

    @property
    def calibrated(self) -> bool:
        """Whether anything was measured on the target."""
        return self.times.measured

    def predict(self, graph: OperatorGraph) -> Prediction:
        """Predict one run at the graph's batch size. Pure arithmetic, a few ms at most."""
        run = kernels_on(graph, self.target)
        times_ms = self.times.ms(run)
        costs = tuple(KernelCost(kernel, self.target, ms) for kernel, ms in zip(run, times_ms, strict=True))
        computing = [op for op in graph.operators if op.weight_shape and op.kind in _COMPUTE]
        formats = {op.name: (op.weight_bits, op.activation_bits) for op in computing}
        foreign = [_foreign_format(kernel, formats, self.target) for kernel in run]
        doubts = [f"{c.kind} {format}" if format else "" for c, format in zip(costs, foreign, strict=True)]
        doubts = [doubt or ("" if self.times.knows(c.kernel) else c.kind) for doubt, c in zip(doubts, costs, strict=True)]
        unknown = tuple(dict.fromkeys(filter(None, doubts)))
        unknown_ms = sum(c.ms for c, doubt in zip(costs, doubts, strict=True) if doubt)
        value_ms = self.end_to_end.latency_ms(run, times_ms)
        known_ms = max(value_ms - unknown_ms, 0.0)
        factor = math.exp(self._log_error(run))
        return Prediction(
            value_ms=value_ms,
            low_ms=known_ms / factor + unknown_ms / UNCALIBRATED_FACTOR,
            high_ms=known_ms * factor + unknown_ms * UNCALIBRATED_FACTOR,
            kernels=costs,
            unknown=unknown,
            calibrated=self.calibrated,
        )

    def _log_error(self, run: tuple[Kernel, ...]) -> float:
        if not self.log_error:
            return math.log(UNCALIBRATED_FACTOR)
        precision = "int8" if any(kernel.precision == "int8" for kernel in run) else "fp32"
        return self.log_error.get(precision, max(self.log_error.values()))

    def with_duration(self, duration_s: float) -> Predictor:
        """The same predictor, knowing how long its calibration took."""
        return replace(self, summary=replace(self.summary, duration_s=duration_s))

    def to_json(self) -> str:
        """Canonical text with type and version."""
        summary = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in self.summary.__dict__.items()}
        return json.dumps(
            {
                "type": "latency_predictor",
                "version": VERSION,
                "features": FEATURES,
                "target": json.loads(self.target.to_json()),
                "times": _times_to_data(self.times),
                "end_to_end": {
                    "factors": dict(zip(GROUPS, self.end_to_end.factors, strict=True)),
                    "overheads_ms": dict(zip(GROUPS, self.end_to_end.overheads_ms, strict=True)),
                    "run_ms": self.end_to_end.run_ms,
                },
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
            if data["type"] != "latency_predictor" or data["version"] != VERSION or tuple(data["features"]) != FEATURES:
                raise PredictorFormatError(
                    "not a latency predictor of a known version and feature list: calibrate the target again"
                )
            target = Target.from_json(json.dumps(data["target"]))
            whole = data["end_to_end"]
            summary: dict[str, Any] = {k: math.nan if v is None else v for k, v in data["summary"].items()}
            return Predictor(
                target,
                _times_from_data(data["times"], target),
                EndToEnd(
                    tuple(_non_negative("factors", whole["factors"][group]) for group in GROUPS),
                    tuple(_non_negative("overheads_ms", whole["overheads_ms"][group]) for group in GROUPS),
                    _non_negative("run_ms", whole["run_ms"]),
                ),
                {str(k): _non_negative("log_error", v) for k, v in data["log_error"].items()},
                CalibrationSummary(**summary),
            )
        except (KeyError, TypeError, ValueError, AttributeError, TargetError) as error:
            raise PredictorFormatError(f"not a latency predictor: {error!r}") from error


def _times_to_data(times: KernelTimes | TransferredTimes) -> dict[str, Any]:
    if isinstance(times, TransferredTimes):
        return {
            "neighbour": {**_times_to_data(times.neighbour), "threads": times.neighbour.threads},
            "scales": dict(times.scales),
            "local_ns": {k: list(v) for k, v in times.local_ns.items()},
            "corrections": {precision: trees.to_text() for precision, trees in times.corrections.items()},
        }
    return {
        "coefficients_ns": {k: list(v) for k, v in times.coefficients_ns.items()},
        "residuals": {precision: trees.to_text() for precision, trees in times.residuals.items()},
    }


def _times_from_data(data: dict[str, Any], target: Target) -> KernelTimes | TransferredTimes:
    if "neighbour" not in data:
        return _kernel_times(data, target.threads, target.peaks)
    return TransferredTimes(
        _kernel_times(data["neighbour"], int(data["neighbour"]["threads"]), None),
        target.threads,
        {str(k): _non_negative("scales", v) for k, v in data["scales"].items()},
        {str(k): _coefficients(k, v) for k, v in data["local_ns"].items()},
        {str(k): Residual.from_text(v, CORRECTION_NAMES) for k, v in data["corrections"].items()},
    )


def _kernel_times(data: dict[str, Any], threads: int, peaks: Peaks | None) -> KernelTimes:
    return KernelTimes(
        threads,
        {str(k): _coefficients(k, v) for k, v in data["coefficients_ns"].items()},
        {str(k): Residual.from_text(v) for k, v in data["residuals"].items()},
        peaks,
    )


def _coefficients(signature: str, values: list[Any]) -> tuple[float, ...]:
    if len(values) != len(FEATURES):
        raise PredictorFormatError(f"{signature}: {len(values)} coefficients, {len(FEATURES)} are needed")
    return tuple(_non_negative(signature, value) for value in values)


def _non_negative(name: str, value: Any) -> float:
    number = _finite(name, value)
    if number < 0:
        raise PredictorFormatError(f"{name}: must be at least 0, got {value!r}")
    return number


def _finite(name: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise PredictorFormatError(f"{name}: must be a finite number, got {value!r}")
    return number


def _foreign_format(kernel: Kernel, formats: Mapping[str, tuple[int, int]], target: Target) -> str:
    """The format of a kernel's weights and activations, such as ``W4A8``, where the target's runtime does not run it as such."""
    for weights, activations in (formats[name] for name in kernel.operators if name in formats):
        if (weights, activations) not in target.formats:
            return f"W{weights}A{activations}"
    return ""
