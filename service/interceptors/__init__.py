"""What happens around every call, one concern per file; `default_interceptors` is their order, outermost first."""

from __future__ import annotations

from typing import Any

from grpc import aio

from service.access.setup import Gate
from service.interceptors.audit import AuditInterceptor
from service.interceptors.auth import AuthInterceptor
from service.interceptors.deadline import DeadlineInterceptor
from service.interceptors.decoding import DecodingInterceptor
from service.interceptors.errors import ErrorInterceptor
from service.interceptors.logging import LoggingInterceptor
from service.interceptors.metrics import MetricsInterceptor
from service.interceptors.request_id import RequestIdInterceptor
from service.interceptors.tracing import TracingInterceptor


def default_interceptors(gate: Gate) -> list[aio.ServerInterceptor[Any, Any]]:
    """Outermost first: what translates and observes, the gate; whatever comes behind sees sound messages of admitted callers."""
    observing = [TracingInterceptor(), LoggingInterceptor(), MetricsInterceptor(), AuditInterceptor(gate.audit)]
    inside = [DeadlineInterceptor(), AuthInterceptor(gate), DecodingInterceptor()]
    return [RequestIdInterceptor(), ErrorInterceptor(), *observing, *inside]
