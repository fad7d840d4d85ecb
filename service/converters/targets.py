"""Targets and predictions to protos."""

from __future__ import annotations

from hw_models.predictor import Prediction
from hw_models.targets import Target
from paretopress.v1 import target_pb2
from service.resources import TargetName


def target_to_proto(project: str, target: Target, calibrated: bool) -> target_pb2.Target:
    """A target, as seen from a project."""
    return target_pb2.Target(
        name=TargetName(project, target.name).name,
        display_name=target.display_name,
        device=target.device,
        runtime=target.runtime,
        threads=target.threads,
        precisions=target.precisions,
        channel_multiple=target.channel_multiple,
        attached=target.attached,
        calibrated=calibrated,
    )


def prediction_to_proto(prediction: Prediction, macs: int) -> target_pb2.PredictLatencyResponse:
    """A predicted latency."""
    return target_pb2.PredictLatencyResponse(
        latency_ms=prediction.value_ms,
        low_ms=prediction.low_ms,
        high_ms=prediction.high_ms,
        macs=macs,
        kernels=[target_pb2.KernelLatency(name=k.name, kind=k.kind, latency_ms=k.ms) for k in prediction.kernels],
        unknown_kernels=prediction.unknown,
    )
