"""Phases and trials of a search as spans of its trace, made from what the search writes to its store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from opentelemetry import context, trace

from search.protocols import CandidateRecord, Event
from service.store.search_store import SqlCandidateStore

_TRACER = "paretopress.search"


class SearchSpans:
    """Below the span that is open when this is made, in whatever thread the search goes on."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer(_TRACER)
        self._parent = context.get_current()
        self._phase: trace.Span | None = None
        self._durations_s: dict[str, float] = {}

    def phase(self, words: str) -> None:
        """A phase begins, and the one before has ended."""
        self.close()
        title = words.partition(":")[0]
        self._phase = self._tracer.start_span(f"phase {title}", context=self._parent, attributes={"description": words})

    def trial(self, record: CandidateRecord) -> None:
        """A trial has just finished a rung."""
        end_ns = time.time_ns()
        took_s = record.duration_s - self._durations_s.get(record.candidate_id, 0.0)
        self._durations_s[record.candidate_id] = record.duration_s
        parent = trace.set_span_in_context(self._phase, self._parent) if self._phase else self._parent
        attributes: dict[str, str | int] = {"candidate": record.candidate_id, "rung": record.rung, "recipe": record.recipe_json}
        begin_ns = end_ns - round(took_s * 1e9)
        self._tracer.start_span("trial", context=parent, attributes=attributes, start_time=begin_ns).end(end_ns)

    def close(self) -> None:
        """The last phase has ended."""
        if self._phase is not None:
            self._phase.end()
            self._phase = None


class TracedCandidateStore(SqlCandidateStore):
    """A store that tells `SearchSpans` what was written."""

    def __init__(self, *arguments: Any, spans: SearchSpans) -> None:
        super().__init__(*arguments)
        self._spans = spans

    def save_candidate(self, record: CandidateRecord, events: Sequence[Event] = ()) -> None:
        """Insert or replace; a trial that reports has an event of that kind."""
        super().save_candidate(record, events)
        if any(event.kind == "candidate" for event in events):
            self._spans.trial(record)

    def append(self, event: Event) -> None:
        """Append; phases are announced."""
        super().append(event)
        if event.kind == "phase":
            self._spans.phase(event.message)
