"""What happens around every call, one concern per file; `default_interceptors` is their order, outermost first."""

from __future__ import annotations

from typing import Any

from grpc import aio

from service.access.setup import Gate
from service.interceptors.audit import AuditConcern
from service.interceptors.auth import AuthInterceptor
from service.interceptors.deadline import DeadlineConcern
from service.interceptors.decoding import DecodingInterceptor
from service.interceptors.errors import ErrorInterceptor
from service.interceptors.logging import LoggingConcern
from service.interceptors.metrics import MetricsConcern
from service.interceptors.request_id import RequestIdConcern
from service.interceptors.tracing import TracingConcern
from service.interceptors.wrapping import Surroundings


def default_interceptors(gate: Gate) -> list[aio.ServerInterceptor[Any, Any]]:
    """Outermost first: what translates, what observes, the gate; whatever comes behind sees sound messages of admitted callers."""
    observing = [TracingConcern(), LoggingConcern(), MetricsConcern(), AuditConcern(gate.audit)]
    surroundings = Surroundings([RequestIdConcern(), *observing, DeadlineConcern()])
    return [ErrorInterceptor(), surroundings, AuthInterceptor(gate), DecodingInterceptor()]
