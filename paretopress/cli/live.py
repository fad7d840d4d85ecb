"""A search as it goes on: a progress bar, what happens, and the growing front."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from paretopress.cli import tables
from paretopress.client import Client
from paretopress.v1 import search_pb2

BASELINE = "baseline"
_SHOWN_MEMBERS = 8


class LiveSearch:
    """Follows one search's events; on a terminal as a live display, elsewhere as lines."""

    def __init__(self, client: Client, search: search_pb2.Search) -> None:
        self._client = client
        self._search = search
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console)
        self._task = self._progress.add_task("queued", total=search.effort.max_trials)
        self._candidates: dict[str, search_pb2.Candidate] = {}
        self._live = Live(self._render(), console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveSearch:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def show(self, event: search_pb2.SearchEvent) -> None:
        """Take in one event."""
        payload = event.payload.fields
        if "candidate" in payload:
            self._fetch(payload["candidate"].string_value)
        kind = tables.enum_word(search_pb2.SearchEvent.Kind, event.kind).lower()
        if event.kind in (event.PHASE, event.STATE):
            self._progress.update(self._task, description=event.message[:60] or kind)
        if not self._console.is_terminal or event.kind == event.WARNING:
            self._console.print(f"{event.sequence:4d} {kind:11s} {event.message}", markup=False, soft_wrap=True)
        done = sum(tables.short(name) != BASELINE for name in self._candidates)
        self._progress.update(self._task, completed=done)
        self._live.update(self._render())

    def _fetch(self, candidate_id: str) -> None:
        name = f"{self._search.name}/candidates/{candidate_id}"
        self._candidates[name] = self._client.get_candidate(name)

    def _render(self) -> RenderableType:
        baseline = self._candidates.get(f"{self._search.name}/candidates/{BASELINE}")
        others = [c for name, c in self._candidates.items() if tables.short(name) != BASELINE]
        members = growing_front(others)[:_SHOWN_MEMBERS]
        if baseline is None and not members:
            return self._progress
        return Group(self._progress, tables.CandidateTable("front so far (~ predicted)", members, baseline))


def growing_front(candidates: Sequence[search_pb2.Candidate]) -> list[search_pb2.Candidate]:
    """The non-dominated candidates in drop, latency and size, fastest first; what has a missing number is left out."""
    points = {c.name: point for c in candidates if (point := _point(c)) is not None}
    members = [
        c
        for c in candidates
        if c.name in points and not any(_dominates(other, points[c.name]) for name, other in points.items() if name != c.name)
    ]
    return sorted(members, key=lambda c: points[c.name][1])


def _point(candidate: search_pb2.Candidate) -> tuple[float, float, float] | None:
    split = next((s for s in tables.DECIDING_SPLITS if s in candidate.accuracies), "")
    names = ("latency_ms", "onnx_size_bytes")
    if not split or candidate.state == candidate.FAILED or any(n not in candidate.measurements for n in names):
        return None
    latency, size = (candidate.measurements[name].value for name in names)
    return candidate.accuracies[split].drop_points, latency, size


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)
