"""One trace from a caller's span through the request to the trials of the search that it queued."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from paretopress.v1 import search_pb2, search_pb2_grpc
from search.environment import SearchEnvironment, SearchOutcome
from search.protocols import Event
from search.spec import SearchSpec
from service.monitoring import tracing
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter, FakeTools, finds_three, record

TRACE_ID, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of this process go."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: provider)
    return exporter


def searches(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
    store = environment.store
    store.append(Event("phase", "sensitivity: what each compression costs"))
    store.append(Event("phase", "search: up to 24 candidates"))
    for rung, duration_s in enumerate((1.0, 3.5)):
        store.save_candidate(record(7, rung=rung, duration_s=duration_s), [Event("candidate", "c0007")])
    return finds_three(spec, environment)


def parent_of(span: ReadableSpan, spans: tuple[ReadableSpan, ...]) -> str:
    assert span.parent is not None
    return next((s.name for s in spans if s.context and s.context.span_id == span.parent.span_id), f"{span.parent.span_id:016x}")


def test_a_trace_goes_from_the_caller_to_the_trials(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    with (
        InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(searches)) as server,
        server.client() as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        asked = search_pb2.CreateSearchRequest(parent="projects/default", search=upload_inputs(client, tmp_path))
        metadata = [("traceparent", f"00-{TRACE_ID}-{CALLER}-01")]
        name = search_pb2_grpc.SearchServiceStub(channel).CreateSearch(asked, metadata=metadata).name
        client.wait(name)
    spans = tuple(span for span in exporter.get_finished_spans() if span.context and span.context.trace_id == int(TRACE_ID, 16))
    rpc = "paretopress.v1.SearchService/CreateSearch"
    assert {span.name: parent_of(span, spans) for span in spans} == {
        rpc: CALLER,
        "search": rpc,
        "phase calibrating cpu-ort-1t": "search",
        "phase sensitivity": "search",
        "phase search": "search",
        "trial": "phase search",
    }
    trials = [span for span in spans if span.name == "trial" and span.attributes and span.attributes["candidate"] == "c0007"]
    seconds = [round((span.end_time - span.start_time) / 1e9, 3) for span in trials if span.end_time and span.start_time]
    assert seconds == [1.0, 2.5], "a rung's own time, not that of those before"
    assert [span.attributes["rung"] for span in trials if span.attributes] == [0, 1]


def test_without_a_collector_nothing_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracing.ENDPOINT, raising=False)
    tracing.start_tracing("x")
    assert tracing.current_trace() == {}


def test_the_end_of_a_cancelled_stream_is_no_news() -> None:
    def made(message: str) -> logging.LogRecord:
        return logging.LogRecord("opentelemetry.context", logging.ERROR, "", 0, message, (), None)

    assert not tracing._is_news(made("Failed to detach context"))
    assert tracing._is_news(made("Failed to load context"))
