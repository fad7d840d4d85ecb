"""Requests about targets to domain types; targets, predictions and calibrations to protos."""

from __future__ import annotations

from typing import Any

from paretopress.v1 import target_pb2
from search.errors import FieldViolation
from search.spec import MAX_BATCH_SIZE
from service.converters import enums
from service.converters.searches import duration
from service.errors import InvalidRequestError
from service.resources import ModelName, TargetName
from service.store.calibration_catalogue import StoredCalibration
from service.targets.directory import KnownTarget, Origin
from service.targets.latency_prices import Priced
from service.targets.predictors import PredictorSummary

DEFAULT_BUDGET_S = 300.0
MIN_BUDGET_S, MAX_BUDGET_S = 10.0, 900.0
MAX_COMPARED = 20
_ORIGINS: enums.EnumPairs[Origin] = enums.EnumPairs(
    {
        target_pb2.Target.BUILTIN: "builtin",
        target_pb2.Target.CATALOGUE: "catalogue",
        target_pb2.Target.REGISTERED: "registered",
    }
)


def batch_size_from_proto(given: int, found: list[FieldViolation]) -> int:
    """Images in one run; 0 means 1."""
    batch_size = given or 1
    if not 1 <= batch_size <= MAX_BATCH_SIZE:
        found.append(FieldViolation("batch_size", f"must be between 1 and {MAX_BATCH_SIZE}, got {batch_size}"))
    return batch_size


def model_from_proto(given: str, found: list[FieldViolation]) -> str:
    """A model's full name; a violation is noted for what is none."""
    try:
        return ModelName.from_name(given, "model").name
    except InvalidRequestError as error:
        found.extend(error.violations)
        return ""


def compared_from_proto(names: Any, found: list[FieldViolation]) -> list[TargetName]:
    """The targets of a comparison."""
    if not 1 <= len(names) <= MAX_COMPARED:
        found.append(FieldViolation("targets", f"must be 1 to {MAX_COMPARED} targets, got {len(names)}"))
    targets = []
    for index, name in enumerate(names):
        try:
            targets.append(TargetName.from_name(name, f"targets[{index}]"))
        except InvalidRequestError as error:
            found.extend(error.violations)
        if name in names[:index]:
            found.append(FieldViolation(f"targets[{index}]", f"{name} is named twice"))
    return targets


def budget_from_proto(request: target_pb2.CalibrateTargetRequest) -> float:
    """Seconds for measuring.

    Raises:
        InvalidRequestError: too few or too many.
    """
    if not request.HasField("budget_duration"):
        return DEFAULT_BUDGET_S
    seconds = enums.seconds_of(request.budget_duration)
    if not MIN_BUDGET_S <= seconds <= MAX_BUDGET_S:
        words = f"must be {MIN_BUDGET_S:g} to {MAX_BUDGET_S:g} seconds, got {seconds:g}"
        raise InvalidRequestError.of("budget_duration", words)
    return seconds


def target_to_proto(project: str, known: KnownTarget) -> target_pb2.Target:
    """A target, as seen from a project."""
    target, summary = known.target, known.stored.summary if known.stored else None
    return target_pb2.Target(
        name=TargetName(project, target.name).name,
        display_name=target.display_name,
        device=target.device,
        runtime=target.runtime,
        threads=target.threads,
        precisions=target.precisions,
        channel_multiple=target.channel_multiple,
        attached=target.attached,
        calibrated=summary is not None,
        peaks=target_pb2.Peaks(**vars(target.peaks)) if target.peaks else None,
        integer_types=target.integer_types,
        optimization=target.optimization,
        calibration=summary_to_proto(summary),
        origin=_ORIGINS.number(known.origin),
        etag=known.etag,
    )


def summary_to_proto(summary: PredictorSummary | None) -> target_pb2.CalibrationSummary | None:
    """How a predictor came about."""
    if summary is None:
        return None
    return target_pb2.CalibrationSummary(
        networks=summary.networks,
        mean_error_percent=summary.mean_error_percent,
        repeatability_percent=summary.repeatability_percent,
        duration_s=summary.duration_s,
        runtime=summary.runtime,
        calibrate_time=enums.timestamp(summary.calibrate_time),
    )


def prediction_to_proto(priced: Priced) -> target_pb2.PredictLatencyResponse:
    """A predicted latency with its kernels."""
    prediction = priced.prediction
    total_ms = sum(kernel.ms for kernel in prediction.kernels) or 1.0
    kernels = [
        target_pb2.KernelLatency(name=k.name, kind=k.kind, latency_ms=k.ms, share=k.ms / total_ms, reasons=k.reasons)
        for k in prediction.kernels
    ]
    return target_pb2.PredictLatencyResponse(**_numbers(priced), kernels=kernels)


def comparison_to_proto(target: TargetName, priced: Priced) -> target_pb2.TargetPrediction:
    """The same without kernels, of one of several targets."""
    return target_pb2.TargetPrediction(target=target.name, **_numbers(priced))


def _numbers(priced: Priced) -> dict[str, Any]:
    prediction = priced.prediction
    return {
        "latency_ms": prediction.value_ms,
        "low_ms": prediction.low_ms,
        "high_ms": prediction.high_ms,
        "macs": priced.macs,
        "unknown_kernels": prediction.unknown,
        "calibrated": prediction.calibrated,
    }


def calibration_to_proto(stored: StoredCalibration) -> target_pb2.Calibration:
    """A stored calibration."""
    return target_pb2.Calibration(
        name=stored.name,
        state=target_pb2.Calibration.State.Value(stored.state),
        progress=stored.progress,
        message=stored.message,
        budget_duration=duration(stored.budget_s),
        summary=summary_to_proto(stored.summary),
        create_time=enums.timestamp(stored.create_time),
        start_time=enums.timestamp(stored.start_time),
        end_time=enums.timestamp(stored.end_time),
    )
