"""What happens around every call, one concern per file; `default_interceptors` is their order, outermost first."""

from __future__ import annotations

from typing import Any

from grpc import aio

from service.interceptors.errors import ErrorInterceptor
from service.interceptors.logging import LoggingInterceptor
from service.interceptors.request_id import RequestIdInterceptor


def default_interceptors() -> list[aio.ServerInterceptor[Any, Any]]:
    """Request id, then error translation, then logging."""
    return [RequestIdInterceptor(), ErrorInterceptor(), LoggingInterceptor()]
