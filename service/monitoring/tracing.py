"""OpenTelemetry traces: from a request to the trials of the search that it queued.

Without ``OTEL_EXPORTER_OTLP_ENDPOINT`` nothing is set up, and every span is the API's own no-op.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence

from opentelemetry import context, propagate, trace

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TRACER = "paretopress.service"
Carrier = Mapping[str, str]
"""A trace's context as text, by header: what ``traceparent`` says."""


def start_tracing(service_name: str) -> None:
    """Export this process's spans, if the environment says where to."""
    if not os.environ.get(ENDPOINT):
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    logging.getLogger("opentelemetry.context").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """A stream whose reader has gone is closed in another context than it was opened in: there is nothing to restore there."""
    return record.getMessage() != "Failed to detach context"


def stop_tracing() -> None:
    """Send what has not been sent."""
    shut_down = getattr(trace.get_tracer_provider(), "shutdown", None)
    if shut_down is not None:
        shut_down()


def current_trace() -> Carrier:
    """The context of the span that is open, to be continued elsewhere; empty when nothing is traced."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


@contextlib.contextmanager
def span(name: str, kind: trace.SpanKind, attributes: Mapping[str, str], parent: Carrier | None = None) -> Iterator[trace.Span]:
    """A span around the block, below ``parent`` if one is given; errors are recorded on it."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        yield trace.INVALID_SPAN  # nobody listens
        return
    token = context.attach(propagate.extract(dict(parent))) if parent else None
    try:
        with trace.get_tracer(_TRACER).start_as_current_span(name, kind=kind, attributes=dict(attributes)) as opened:
            yield opened
    finally:
        if token is not None:
            context.detach(token)


def carrier_of(metadata: Sequence[tuple[str, str | bytes]]) -> Carrier:
    """What a call's metadata says about the trace that it belongs to."""
    wanted = set(propagate.get_global_textmap().fields)
    return {key: value for key, value in metadata if key in wanted and isinstance(value, str)}
