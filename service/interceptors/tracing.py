"""One span per call, below the caller's where it has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpc import aio
from opentelemetry.trace import SpanKind

from service.interceptors.request_id import current_request_id
from service.interceptors.wrapping import Concern
from service.monitoring.tracing import carrier_of, span


class TracingConcern(Concern):
    """Stands inside the error translation, so that the span has the domain's error."""

    @contextmanager
    def around(self, method: str, context: aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Open the span."""
        service, _, name = method.removeprefix("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name, "request_id": current_request_id.get()}
        parent = carrier_of(tuple(context.invocation_metadata() or ()))
        with span(f"{service}/{name}", SpanKind.SERVER, attributes, parent):
            yield
